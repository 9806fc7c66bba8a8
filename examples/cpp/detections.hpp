// An image file, and the instances that a file of `htc export --raw-images` finds in it. The standard library alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;
};

// Reads a binary PPM (P6), which any tool converts to; use your own library instead.
inline Image read_ppm(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string kind;
  int64_t most = 0;
  Image image;
  stream >> kind >> image.width >> image.height >> most;
  stream.get();
  if (!stream || kind != "P6" || most != 255) throw std::runtime_error(path + " is not a binary PPM of 8 bits");
  image.rgb.resize(image.height * image.width * 3);
  stream.read(reinterpret_cast<char*>(image.rgb.data()), static_cast<std::streamsize>(image.rgb.size()));
  if (!stream) throw std::runtime_error(path + " ends early");
  return image;
}

// Probability of the instance at the center of a pixel: bilinear on the grid over its box, 0 outside of the grid.
inline float probability(const float* grid, int64_t cells, const float* box, int64_t x, int64_t y) {
  const float across = (x + 0.5f - box[0]) / (box[2] - box[0]) * cells - 0.5f;
  const float down = (y + 0.5f - box[1]) / (box[3] - box[1]) * cells - 0.5f;
  const int64_t column = static_cast<int64_t>(std::floor(across)), row = static_cast<int64_t>(std::floor(down));
  float sum = 0;
  for (int64_t i = row; i <= row + 1; ++i)
    for (int64_t j = column; j <= column + 1; ++j)
      if (i >= 0 && j >= 0 && i < cells && j < cells)
        sum += (1 - std::abs(down - i)) * (1 - std::abs(across - j)) * grid[i * cells + j];
  return sum;
}

inline int64_t mask_area(const float* grid, int64_t cells, const float* box, const Image& image, float threshold) {
  int64_t area = 0;
  const int64_t bottom = std::min<int64_t>(image.height, std::ceil(box[3]));
  const int64_t right = std::min<int64_t>(image.width, std::ceil(box[2]));
  for (int64_t y = std::floor(box[1]); y < bottom; ++y)
    for (int64_t x = std::floor(box[0]); x < right; ++x) area += probability(grid, cells, box, x, y) >= threshold;
  return area;
}

// Outputs of the file: `slots` detections, of which the valid ones count, with masks of cells x cells.
struct Outputs {
  const float* boxes;  // xyxy in pixels of the image
  const float* scores;
  const int64_t* labels;
  const bool* valid;
  const float* masks;
  int64_t slots, cells;
};

// Prints a line for each instance: label, score, box, and the number of the mask's pixels.
inline void print(const Outputs& found, const Image& image) {
  for (int64_t slot = 0; slot < found.slots; ++slot) {
    if (!found.valid[slot]) continue;
    const float* box = found.boxes + 4 * slot;
    const float* grid = found.masks + slot * found.cells * found.cells;
    const int64_t area = found.cells ? mask_area(grid, found.cells, box, image, 0.5f) : 0;
    std::printf("%lld %.6f %.4f %.4f %.4f %.4f %lld\n", static_cast<long long>(found.labels[slot]), found.scores[slot],
                box[0], box[1], box[2], box[3], static_cast<long long>(area));
  }
}

// The lowest score of each class; above 1, the class is not wanted.
inline std::vector<float> lowest_scores(int64_t classes, float threshold) {
  return std::vector<float>(classes, std::max(threshold, 1e-30f));
}

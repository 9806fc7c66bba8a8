// Predicts with a file of `htc export --raw-images` in ONNX Runtime: no Python, no image preparation of your own.
//
//     g++ -std=c++17 -O2 onnxruntime.cpp -I include -L lib -lonnxruntime -o predict
//     ./predict model.onnx image.ppm 0.5

#include <array>
#include <cstdlib>

#include <onnxruntime_cxx_api.h>

#include "detections.hpp"

int main(int count, char** words) try {
  if (count < 3) throw std::runtime_error("usage: predict model.onnx image.ppm [score_threshold]");
  Image image = read_ppm(words[2]);

  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR);
  Ort::Session session(environment, words[1], Ort::SessionOptions{});
  const std::vector<int64_t> classes = session.GetInputTypeInfo(1).GetTensorTypeAndShapeInfo().GetShape();
  std::vector<float> thresholds = lowest_scores(classes.at(0), count > 3 ? std::strtof(words[3], nullptr) : 0.5f);

  const std::array<int64_t, 3> shape{image.height, image.width, 3};
  Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::array<Ort::Value, 2> inputs{
      Ort::Value::CreateTensor<uint8_t>(memory, image.rgb.data(), image.rgb.size(), shape.data(), shape.size()),
      Ort::Value::CreateTensor<float>(memory, thresholds.data(), thresholds.size(), classes.data(), classes.size())};
  const char* input_names[]{"image", "thresholds"};
  const char* output_names[]{"boxes", "scores", "labels", "valid", "masks"};
  std::vector<Ort::Value> found =
      session.Run(Ort::RunOptions{}, input_names, inputs.data(), inputs.size(), output_names, 5);

  const std::vector<int64_t> sizes = found[4].GetTensorTypeAndShapeInfo().GetShape();  // 1, slots, cells, cells
  print({found[0].GetTensorMutableData<float>(), found[1].GetTensorMutableData<float>(),
         found[2].GetTensorMutableData<int64_t>(), found[3].GetTensorMutableData<bool>(),
         found[4].GetTensorMutableData<float>(), sizes[1], sizes[2]},
        image);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}

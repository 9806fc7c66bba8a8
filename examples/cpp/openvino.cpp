// Predicts with a file of `htc export --raw-images` in OpenVINO: no Python, no image preparation of your own.
//
//     g++ -std=c++17 -O2 openvino.cpp -I include -L lib -lopenvino -o predict
//     ./predict model.xml image.ppm 0.5

#include <cstdlib>

#include <openvino/openvino.hpp>

#include "detections.hpp"

int main(int count, char** words) try {
  if (count < 3) throw std::runtime_error("usage: predict model.xml image.ppm [score_threshold]");
  Image image = read_ppm(words[2]);

  // The default precision of many processors, bfloat16, moves boxes by pixels.
  ov::Core core;
  ov::CompiledModel model = core.compile_model(words[1], "CPU", ov::hint::inference_precision(ov::element::f32));
  const size_t classes = model.input("thresholds").get_shape().at(0);
  std::vector<float> thresholds = lowest_scores(classes, count > 3 ? std::strtof(words[3], nullptr) : 0.5f);

  ov::InferRequest request = model.create_infer_request();
  const ov::Shape shape{static_cast<size_t>(image.height), static_cast<size_t>(image.width), 3};
  request.set_tensor("image", ov::Tensor(ov::element::u8, shape, image.rgb.data()));
  request.set_tensor("thresholds", ov::Tensor(ov::element::f32, {classes}, thresholds.data()));
  request.infer();

  const ov::Shape sizes = request.get_tensor("masks").get_shape();  // 1, slots, cells, cells
  print({request.get_tensor("boxes").data<float>(), request.get_tensor("scores").data<float>(),
         request.get_tensor("labels").data<int64_t>(),
         static_cast<const bool*>(request.get_tensor("valid").data()),
         request.get_tensor("masks").data<float>(), static_cast<int64_t>(sizes[1]), static_cast<int64_t>(sizes[2])},
        image);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}

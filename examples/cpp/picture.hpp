// From a JPEG file to the square of pixels that a net eats: Python's anabranch.images, for this one format.
#pragma once

#include <cstdint>
#include <filesystem>

#include "resize.hpp"

namespace anabranch {

enum class Fit { shorter_side, squash };
enum class Rounding { torchvision, paddleclas };

// What a card says of its pictures. Mean and deviation are applied inside the graph.
struct Preprocess {
    std::int64_t crop_px;    // side of the square
    std::int64_t resize_px;  // the shorter side before the crop; both sides where `fit` is squash
    Fit fit;
    Resampler resampler;
    Rounding rounding;
};

// The pixels as stored, whatever EXIF says of their orientation. Throws Error.
Picture decode(const std::filesystem::path& path);

// The same into a picture that is there: a third sooner for many large ones, whose memory the system clears each time.
void decode(const std::filesystem::path& path, Picture& picture);

// The square of `crop_px` pixels. Throws Error for a strip too narrow to be resized, without its name.
Picture preprocessed(const Picture& picture, const Preprocess& preprocess);

}  // namespace anabranch

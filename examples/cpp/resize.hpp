// Pillow's and OpenCV's resizing of 8-bit pictures, to the bit, computing only the part that is looked at.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace anabranch {

// Rows of red, green and blue bytes.
struct Picture {
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::vector<std::uint8_t> rgb;  // more than these rows where `reshape` has made it smaller

    Picture() = default;
    Picture(std::int64_t height, std::int64_t width)
        : height(height), width(width), rgb(static_cast<std::size_t>(height * width * 3)) {}

    // Of another size, with whatever pixels; in the memory that it has, where that is enough.
    void reshape(std::int64_t new_height, std::int64_t new_width) {
        height = new_height;
        width = new_width;
        rgb.resize(std::max(rgb.size(), static_cast<std::size_t>(height * width * 3)));
    }

    const std::uint8_t* row(std::int64_t y) const { return rgb.data() + y * width * 3; }
    std::uint8_t* row(std::int64_t y) { return rgb.data() + y * width * 3; }
};

// Pixels [first, last) of a side that is resized to `side` pixels.
struct Span {
    std::int64_t side;
    std::int64_t first;
    std::int64_t last;

    std::int64_t length() const { return last - first; }
};

enum class Resampler { pillow_bilinear, pillow_bicubic, opencv_bilinear };

// The part `rows` x `columns` of the picture resized to `rows.side` x `columns.side`.
Picture resize(const Picture& picture, const Span& rows, const Span& columns, Resampler resampler);

}  // namespace anabranch

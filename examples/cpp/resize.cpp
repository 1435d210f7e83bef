#include "resize.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace anabranch {
namespace {

constexpr int kChannels = 3;

// Pillow: each pixel of the result is a weighted mean over a stretch of the stored ones, side after side, in 22-bit
// fixed point. When it shrinks a picture the filter grows with the scale. Source: Pillow 13, src/libImaging/Resample.c.

constexpr int kPillowBits = 32 - 8 - 2;

struct Filter {
    double reach;  // pixels
    double (*weight)(double distance);
};

constexpr Filter kBilinear{1.0, [](double distance) { return std::max(0.0, 1.0 - std::abs(distance)); }};

constexpr Filter kBicubic{2.0, [](double distance) {
    constexpr double a = -0.5;
    const double x = std::abs(distance);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}};

// Where one pixel of the result looks, and how much each of these pixels counts.
struct Stretch {
    std::int64_t first;
    std::vector<std::int32_t> weights;

    std::int64_t last() const { return first + static_cast<std::int64_t>(weights.size()); }
};

Stretch stretch_at(std::int64_t place, double scale, std::int64_t stored, const Filter& filter) {
    const double widening = std::max(1.0, scale);
    const double reach = filter.reach * widening;
    const double centre = (static_cast<double>(place) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - reach + 0.5));
    const auto last = std::min<std::int64_t>(stored, static_cast<std::int64_t>(centre + reach + 0.5));
    std::vector<double> weights;
    double sum = 0.0;
    for (std::int64_t x = first; x < last; ++x) {
        weights.push_back(filter.weight((static_cast<double>(x) - centre + 0.5) * (1.0 / widening)));
        sum += weights.back();
    }
    Stretch stretch{first, {}};
    for (const double weight : weights) {
        const double scaled = (sum != 0.0 ? weight / sum : weight) * (1 << kPillowBits);
        stretch.weights.push_back(static_cast<std::int32_t>(scaled + (weight < 0 ? -0.5 : 0.5)));
    }
    return stretch;
}

std::vector<Stretch> stretches(const Span& span, std::int64_t stored, const Filter& filter) {
    const double scale = static_cast<double>(stored) / static_cast<double>(span.side);
    std::vector<Stretch> all;
    for (std::int64_t place = span.first; place < span.last; ++place) {
        all.push_back(stretch_at(place, scale, stored, filter));
    }
    return all;
}

std::uint8_t rounded(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp((sum + (1 << (kPillowBits - 1))) >> kPillowBits, 0, 255));
}

// Rows [top, bottom), each resized to `columns`.
Picture resized_across(const Picture& picture, const std::vector<Stretch>& columns, std::int64_t top,
                       std::int64_t bottom) {
    Picture resized(bottom - top, static_cast<std::int64_t>(columns.size()));
    for (std::int64_t y = 0; y < resized.height; ++y) {
        std::uint8_t* out = resized.row(y);
        for (const Stretch& stretch : columns) {
            std::array<std::int32_t, kChannels> sums{};
            const std::uint8_t* pixel = picture.row(top + y) + stretch.first * kChannels;
            for (const std::int32_t weight : stretch.weights) {
                for (std::int32_t& sum : sums) sum += *pixel++ * weight;
            }
            out = std::transform(sums.begin(), sums.end(), out, rounded);
        }
    }
    return resized;
}

// Columns [left, right), each resized to `rows`.
Picture resized_down(const Picture& picture, const std::vector<Stretch>& rows, std::int64_t left, std::int64_t right) {
    Picture resized(static_cast<std::int64_t>(rows.size()), right - left);
    std::vector<std::int32_t> sums(static_cast<std::size_t>((right - left) * kChannels));
    std::uint8_t* out = resized.rgb.data();
    for (const Stretch& stretch : rows) {
        std::fill(sums.begin(), sums.end(), 0);
        std::int64_t y = stretch.first;
        for (const std::int32_t weight : stretch.weights) {
            const std::uint8_t* pixel = picture.row(y++) + left * kChannels;
            for (std::int32_t& sum : sums) sum += *pixel++ * weight;
        }
        out = std::transform(sums.begin(), sums.end(), out, rounded);
    }
    return resized;
}

void shift(std::vector<Stretch>& stretches, std::int64_t origin) {
    for (Stretch& stretch : stretches) stretch.first -= origin;
}

// Which side goes first shows in the bits. Pillow 13 begins with the rows where their number falls by more than twice
// as much as the columns'; older ones always begin with the columns. Source: Pillow's pull request 9549.
bool begins_with_rows(const Picture& picture, const Span& rows, const Span& columns) {
    return rows.side < picture.height && picture.height - rows.side > 2 * (picture.width - columns.side);
}

Picture resize_as_pillow(const Picture& picture, const Span& rows, const Span& columns, const Filter& filter) {
    std::vector<Stretch> down = stretches(rows, picture.height, filter);
    std::vector<Stretch> across = stretches(columns, picture.width, filter);
    if (begins_with_rows(picture, rows, columns)) {
        const std::int64_t left = across.front().first;
        const Picture lowered = resized_down(picture, down, left, across.back().last());
        shift(across, left);
        return resized_across(lowered, across, 0, lowered.height);
    }
    const std::int64_t top = down.front().first;
    const Picture narrowed = resized_across(picture, across, top, down.back().last());
    shift(down, top);
    return resized_down(narrowed, down, 0, narrowed.width);
}

// OpenCV: each pixel of the result lies between two stored ones on each side, whatever the scale, in 11-bit fixed
// point with bits dropped on the way. Source: OpenCV 5.0, modules/imgproc/src/resize.cpp, INTER_LINEAR of uint8.

struct Pair {
    std::int64_t before;
    std::int64_t after;
    std::int32_t weight_before;
    std::int32_t weight_after;
};

enum class Beyond { is_the_edge, keeps_its_weights };  // what columns and rows do outside the picture

Pair pair_at(std::int64_t place, double scale, std::int64_t stored, Beyond beyond) {
    constexpr float one = 1 << 11;
    const auto exact = static_cast<float>((static_cast<double>(place) + 0.5) * scale - 0.5);
    auto before = static_cast<std::int64_t>(std::floor(exact));
    float fraction = exact - static_cast<float>(before);
    if (beyond == Beyond::is_the_edge && (before < 0 || before >= stored - 1)) {
        before = std::clamp<std::int64_t>(before, 0, stored - 1);
        fraction = 0.0F;
    }
    return {std::clamp<std::int64_t>(before, 0, stored - 1), std::clamp<std::int64_t>(before + 1, 0, stored - 1),
            static_cast<std::int32_t>(std::nearbyint((1.0F - fraction) * one)),
            static_cast<std::int32_t>(std::nearbyint(fraction * one))};
}

std::vector<Pair> pairs(const Span& span, std::int64_t stored, Beyond beyond) {
    const double scale = 1.0 / (static_cast<double>(span.side) / static_cast<double>(stored));
    std::vector<Pair> all;
    for (std::int64_t place = span.first; place < span.last; ++place) {
        all.push_back(pair_at(place, scale, stored, beyond));
    }
    return all;
}

Picture resize_as_opencv(const Picture& picture, const Span& rows, const Span& columns) {
    const std::vector<Pair> across = pairs(columns, picture.width, Beyond::is_the_edge);
    const std::vector<Pair> down = pairs(rows, picture.height, Beyond::keeps_its_weights);
    Picture resized(rows.length(), columns.length());
    for (std::int64_t y = 0; y < resized.height; ++y) {
        const Pair& row = down[static_cast<std::size_t>(y)];
        std::uint8_t* out = resized.row(y);
        for (const Pair& column : across) {
            for (int channel = 0; channel < kChannels; ++channel) {
                const auto between = [&](std::int64_t stored_row) {
                    const std::uint8_t* pixels = picture.row(stored_row) + channel;
                    return pixels[column.before * kChannels] * column.weight_before +
                           pixels[column.after * kChannels] * column.weight_after;
                };
                const std::int32_t above = (row.weight_before * (between(row.before) >> 4)) >> 16;
                const std::int32_t below = (row.weight_after * (between(row.after) >> 4)) >> 16;
                *out++ = static_cast<std::uint8_t>((above + below + 2) >> 2);
            }
        }
    }
    return resized;
}

}  // namespace

Picture resize(const Picture& picture, const Span& rows, const Span& columns, Resampler resampler) {
    switch (resampler) {
        case Resampler::opencv_bilinear: return resize_as_opencv(picture, rows, columns);
        case Resampler::pillow_bicubic: return resize_as_pillow(picture, rows, columns, kBicubic);
        case Resampler::pillow_bilinear: break;
    }
    return resize_as_pillow(picture, rows, columns, kBilinear);
}

}  // namespace anabranch

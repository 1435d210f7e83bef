#include "text.hpp"

#include <array>
#include <cstdint>
#include <cstdio>
#include <functional>

namespace anabranch {
namespace {

struct Letter {
    std::uint32_t code;  // of a byte that is no UTF-8: 0xDC00 and more, where no letters are
    std::size_t num_bytes;
};

std::size_t length_by(unsigned char lead) {
    if (lead < 0x80) return 1;
    if (lead >= 0xC2 && lead <= 0xDF) return 2;
    if (lead >= 0xE0 && lead <= 0xEF) return 3;
    if (lead >= 0xF0 && lead <= 0xF4) return 4;
    return 0;
}

// The letter that begins at `place`. Source: the Unicode Standard, table 3-7.
Letter letter_at(const std::string& text, std::size_t place) {
    constexpr std::array<std::uint32_t, 5> kFirstOfLength{0, 0, 0x80, 0x800, 0x10000};
    constexpr std::array<std::uint32_t, 5> kMaskOfLength{0, 0x7F, 0x1F, 0x0F, 0x07};
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    const Letter unreadable{0xDC00U + byte(place), 1};
    const std::size_t length = length_by(byte(place));
    if (length == 0 || place + length > text.size()) return unreadable;
    std::uint32_t code = byte(place) & kMaskOfLength[length];
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(place + i) & 0xC0) != 0x80) return unreadable;
        code = code << 6 | (byte(place + i) & 0x3F);
    }
    const bool fits = code >= kFirstOfLength[length] && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
    return fits ? Letter{code, length} : unreadable;
}

bool is_no_letter(std::uint32_t code) { return code >= 0xDC80 && code <= 0xDCFF; }

// Control characters, and those that turn the order of text around.
bool is_unseen(std::uint32_t code) {
    return code < 0x20 || (code >= 0x7F && code <= 0x9F) || (code >= 0x202A && code <= 0x202E) ||
           (code >= 0x2066 && code <= 0x2069);
}

std::string escaped(const std::string& text, const std::function<bool(std::uint32_t)>& is_escaped) {
    std::string told;
    for (std::size_t place = 0; place < text.size();) {
        const Letter letter = letter_at(text, place);
        if (is_escaped(letter.code)) {
            std::array<char, 8> spelling{};
            std::snprintf(spelling.data(), spelling.size(), letter.code > 0xFF ? "\\u%04x" : "\\x%02x", letter.code);
            told += spelling.data();
        } else {
            told.append(text, place, letter.num_bytes);
        }
        place += letter.num_bytes;
    }
    return told;
}

}  // namespace

std::u32string letters(const std::string& text) {
    std::u32string all;
    for (std::size_t place = 0; place < text.size();) {
        const Letter letter = letter_at(text, place);
        all += static_cast<char32_t>(letter.code);
        place += letter.num_bytes;
    }
    return all;
}

std::string utf8(const std::string& text) { return escaped(text, is_no_letter); }

std::string spelt(const std::string& text) {
    return escaped(text, [](std::uint32_t code) { return is_no_letter(code) || is_unseen(code); });
}

}  // namespace anabranch

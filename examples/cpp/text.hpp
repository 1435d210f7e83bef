#pragma once

#include <string>

namespace anabranch {

// The letters of UTF-8; a byte that is none of it, as Python has it: 0xDC00 and more, where no letters are.
std::u32string letters(const std::string& text);

// UTF-8, whatever the text is made of: a byte that is none as \udcXX, which is how Python spells it.
std::string utf8(const std::string& text);

// For a terminal: what would move the cursor, change colours or turn text around is spelt out too.
std::string spelt(const std::string& text);

}  // namespace anabranch

// pixels ARTEFACT IMAGE...: what would go into the graph, byte after byte, on standard output.
#include <exception>
#include <iostream>

#include "card.hpp"

int main(int count, char** words) try {
    const anabranch::Preprocess preprocess = anabranch::read_card(words[1]).preprocess;
    for (int i = 2; i < count; ++i) {
        const auto square = anabranch::preprocessed(anabranch::decode(words[i]), preprocess);
        std::cout.write(reinterpret_cast<const char*>(square.rgb.data()),
                        static_cast<std::streamsize>(square.rgb.size()));
    }
    return 0;
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}

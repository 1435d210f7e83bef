// Pictures in, ordered answers out: decoding runs in threads beside inference, and memory stays bounded.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "predictor.hpp"

namespace anabranch {

struct Answer {
    std::string picture;
    std::vector<Guess> guesses;  // best first; none where the picture could not be read
    std::string error;           // why not
};

// How many pictures a request should hold where so many are to be answered: one, or `kBatch` where that leaves no core
// without any.
std::size_t batch_for(std::size_t num_pictures);

// Report one answer for each picture, in their order, from the calling thread.
void classify(Predictor& predictor, const std::vector<std::filesystem::path>& pictures, std::size_t top,
              const std::function<void(const Answer&)>& report);

}  // namespace anabranch

// How fast an artefact answers on this machine.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "predictor.hpp"

namespace anabranch {

struct Measured {
    std::string model;
    std::string precision;
    double cold_start_ms;    // from the start of this process to the first answer
    double latency_ms;       // median of one request at a time, inference alone
    int num_latencies;
    double throughput_per_s; // with as many requests at once as keep the processor busy
};

// The picture is decoded once; black pixels where there is none. Throws Error.
Measured bench(const std::filesystem::path& folder, const std::optional<std::filesystem::path>& picture,
               const Engine& engine);

}  // namespace anabranch

// An artefact on OpenVINO's CPU engine, in f32 or int8: uint8 pixels (1, S, S, 3) in, the best classes out.
#pragma once

#include <filesystem>
#include <openvino/openvino.hpp>
#include <optional>
#include <string>
#include <vector>

#include "card.hpp"

namespace anabranch {

struct Guess {
    std::size_t class_index;
    std::string label;
    float probability;
};

struct Engine {
    std::optional<std::string> precision;  // none: f32 where the artefact has that
    std::optional<int> threads;            // none: as many as there are cores
};

enum class Aim { latency, throughput };

class Predictor {
public:
    // Throws Error.
    Predictor(const std::filesystem::path& folder, const Engine& engine, Aim aim);

    const Card& card() const { return card_; }
    const std::string& precision() const { return precision_; }

    // How many requests at once keep the processor busy.
    std::size_t num_requests() const;

    // To be filled by `fill`, started or inferred, and read by `guesses`.
    ov::InferRequest request() { return compiled_.create_infer_request(); }

    // Put a picture into a request.
    void fill(ov::InferRequest& request, const Picture& picture) const;

    // The `top` best classes of a request that is done, best first; of equal ones the lower index.
    std::vector<Guess> guesses(ov::InferRequest& request, std::size_t top) const;

private:
    Card card_;
    std::string precision_;
    ov::CompiledModel compiled_;
};

}  // namespace anabranch

// An artefact on OpenVINO's CPU engine, in f32, bf16 or int8: uint8 pixels (N, S, S, 3) in, the best classes out.
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

constexpr std::size_t kBatch = 8;  // pictures to a request where there are many

class Predictor {
public:
    // For requests of `batch` pictures each. Throws Error.
    Predictor(const std::filesystem::path& folder, const Engine& engine, Aim aim, std::size_t batch = 1);

    const Card& card() const { return card_; }
    const std::string& precision() const { return precision_; }
    std::size_t batch() const { return batch_; }

    // How many requests at once keep the processor busy.
    std::size_t num_requests() const;

    // To be filled by `fill`, started or inferred, and read by `guesses`.
    ov::InferRequest request() { return compiled_.create_infer_request(); }

    // Put a picture into a request, as the one at `row` of its batch.
    void fill(ov::InferRequest& request, std::size_t row, const Picture& picture) const;

    // The `top` best classes of that picture, once the request is done, best first; of equal ones the lower index.
    // Throws Error where the logits are not finite.
    std::vector<Guess> guesses(ov::InferRequest& request, std::size_t row, std::size_t top) const;

private:
    Card card_;
    std::string precision_;
    std::size_t batch_;
    ov::CompiledModel compiled_;
};

}  // namespace anabranch

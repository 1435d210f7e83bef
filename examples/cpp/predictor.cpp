#include "predictor.hpp"

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <sstream>
#include <system_error>

#include "error.hpp"

namespace anabranch {
namespace {

namespace fs = std::filesystem;

// Compiled graphs of larger nets would take more room in the cache than their faster start is worth.
constexpr std::uintmax_t kCachedUpToBytes = 512U << 20U;

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

// As Python has it: HOME, or what the system says of this user.
fs::path home_folder() {
    if (const std::string told = environment("HOME"); !told.empty()) return told;
    const passwd* user = getpwuid(getuid());
    return user == nullptr ? "" : user->pw_dir;
}

// A path that begins with ~ or ~somebody leads to a home.
fs::path from_home(const std::string& told) {
    if (told.front() != '~') return told;
    const std::size_t end = std::min(told.find('/'), told.size());
    const passwd* user = end == 1 ? nullptr : getpwnam(told.substr(1, end - 1).c_str());
    const fs::path home = end == 1 ? home_folder() : fs::path(user == nullptr ? "" : user->pw_dir);
    if (home.empty()) {
        throw UsageError("ANABRANCH_CACHE is '" + told + "', and no such home is known here; write the whole path");
    }
    return end == told.size() ? home : home / told.substr(end + 1);
}

// Python's anabranch.cache: ANABRANCH_CACHE, or where this system keeps caches.
// Without a home they lie nowhere, and the path is empty.
fs::path cache_folder() {
    if (const std::string told = environment("ANABRANCH_CACHE"); !told.empty()) return from_home(told);
    const fs::path home = home_folder();
    const std::string caches = environment("XDG_CACHE_HOME");
    if (caches.empty() && home.empty()) return {};
    return (caches.empty() ? home / ".cache" : fs::path(caches)) / "anabranch";
}

ov::AnyMap settings(const std::vector<File>& files, const std::string& precision, const Engine& engine, Aim aim) {
    using ov::hint::PerformanceMode;
    // Without a precision by name OpenVINO takes bf16 wherever the processor has it. What is int8 the graph says.
    ov::AnyMap config{
        ov::hint::inference_precision(precision == "bf16" ? ov::element::bf16 : ov::element::f32),
        ov::hint::performance_mode(aim == Aim::latency ? PerformanceMode::LATENCY : PerformanceMode::THROUGHPUT)};
    if (engine.threads) config.insert(ov::inference_num_threads(*engine.threads));
    const auto size_bytes = std::accumulate(files.begin(), files.end(), std::uintmax_t{0},
                                            [](auto sum, const File& file) { return sum + file.size_bytes; });
    const fs::path caches = cache_folder();
    if (caches.empty() || size_bytes > kCachedUpToBytes) return config;
    const fs::path cache = caches / "openvino";
    std::error_code failed;
    fs::create_directories(cache, failed);
    if (access(cache.c_str(), W_OK) == 0) config.insert(ov::cache_dir(cache.string()));
    return config;
}

const std::vector<File>& files_for(const Card& card, const std::string& precision, const fs::path& folder) {
    const auto found = card.graphs.find(precision);
    if (found != card.graphs.end()) return found->second;
    std::string held;
    for (const auto& graph : card.graphs) held += (held.empty() ? "" : ", ") + graph.first;
    throw Error(folder.string() + " holds no files for openvino in " + precision + "; it holds " +
                (held.empty() ? "none" : held) + ". Export the net again with the format openvino, and in " +
                precision);
}

// That it takes and gives what the card says, for this batch or for any.
void check_graph(const ov::Model& model, const Card& card, const fs::path& xml, const ov::Dimension& batch) {
    const std::int64_t side = card.preprocess.crop_px;
    const ov::PartialShape wanted_in{batch, side, side, 3};
    const ov::PartialShape wanted_out{batch, static_cast<std::int64_t>(card.labels.size())};
    const ov::PartialShape& in = model.input().get_partial_shape();
    const ov::PartialShape& out = model.output().get_partial_shape();
    const auto has_one_side = [&] { return in[1].is_static() && in[2].is_static(); };  // others resize by themselves
    const auto has_one_batch = [&] { return out[0] == in[0] || (out[0].is_dynamic() && batch.is_dynamic()); };
    if (in.rank() == 4 && wanted_in.compatible(in) && has_one_side() && out.rank() == 2 &&
        wanted_out.compatible(out) && out[1].is_static() && has_one_batch() &&
        model.input().get_element_type() == ov::element::u8 && model.output().get_element_type() == ov::element::f32) {
        return;
    }
    std::ostringstream said;
    said << xml.string() << " takes " << model.input().get_element_type() << ' ' << in << " and gives "
         << model.output().get_element_type() << ' ' << out << "; the card says u8 " << wanted_in << " and f32 "
         << wanted_out << ". Export the artefact again";
    throw Error(said.str());
}

std::string last_line(const std::string& text) {
    std::istringstream lines(text);
    std::string last;
    for (std::string line; std::getline(lines, line);) {
        if (line.find_first_not_of(" \t\r") != std::string::npos) last = line;
    }
    return last;
}

void want_offered(const ov::Core& core, const std::string& precision) {
    const auto offered = core.get_property("CPU", ov::device::capabilities);
    if (precision == "bf16" && std::count(offered.begin(), offered.end(), ov::device::capability::BF16) == 0) {
        throw UsageError("this processor computes no bf16 in OpenVINO; f32 runs everywhere");
    }
}

// Alone with the cache. OpenVINO writes a graph there bit by bit under its final name, where others would meet half of
// it.
class Alone {
public:
    explicit Alone(const ov::AnyMap& config) {
        const auto cache = config.find(ov::cache_dir.name());
        if (cache == config.end()) return;
        const fs::path lock = fs::path(cache->second.as<std::string>()) / ".lock";
        file_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (file_ >= 0) flock(file_, LOCK_EX);  // where that fails, there are no locks
    }
    Alone(const Alone&) = delete;
    Alone& operator=(const Alone&) = delete;
    ~Alone() {
        if (file_ >= 0) close(file_);
    }

private:
    int file_ = -1;
};

ov::CompiledModel compiled(const fs::path& xml, const fs::path& weights, const Card& card, std::size_t batch,
                           const std::string& precision, const ov::AnyMap& config) try {
    ov::Core core;
    want_offered(core, precision);
    const std::shared_ptr<ov::Model> model = core.read_model(xml.string(), weights.string());
    check_graph(*model, card, xml, ov::Dimension::dynamic());
    const std::int64_t side = card.preprocess.crop_px;
    const ov::Dimension pictures(static_cast<std::int64_t>(batch));
    model->reshape(ov::PartialShape{pictures, side, side, 3});
    check_graph(*model, card, xml, pictures);
    const Alone alone(config);
    return core.compile_model(model, "CPU", config);
} catch (const ov::Exception& error) {
    throw Error("OpenVINO cannot read " + xml.string() + ": " + last_line(error.what()));
}

// Of one class among all.
std::vector<float> softmax(std::vector<float> values) {
    const float most = *std::max_element(values.begin(), values.end());
    for (float& value : values) value = std::exp(value - most);
    const float sum = std::accumulate(values.begin(), values.end(), 0.0F);
    for (float& value : values) value /= sum;
    return values;
}

// Of each class by itself.
std::vector<float> sigmoid(std::vector<float> values) {
    for (float& value : values) value = 0.5F + 0.5F * std::tanh(0.5F * value);
    return values;
}

}  // namespace

Predictor::Predictor(const fs::path& folder, const Engine& engine, Aim aim, std::size_t batch)
    : card_(read_card(folder)),
      precision_(engine.precision.value_or(card_.graphs.count("f32") == 0 && card_.graphs.count("int8") == 1
                                               ? "int8"
                                               : "f32")),
      batch_(batch) {
    const std::vector<File>& files = files_for(card_, precision_ == "bf16" ? "f32" : precision_, folder);
    const std::vector<fs::path> paths = checked_files(folder, files);
    const auto ending = [&](const std::string& extension) {
        const auto found = std::find_if(paths.begin(), paths.end(), [&](const fs::path& path) {
            const std::string& name = path.native();
            return name.size() >= extension.size() &&
                   name.compare(name.size() - extension.size(), extension.size(), extension) == 0;
        });
        if (found != paths.end()) return *found;
        throw Error((folder / "card.json").string() + " names no " + extension + " file; export it again");
    };
    compiled_ = compiled(ending(".xml"), ending(".bin"), card_, batch_, precision_,
                         settings(files, precision_, engine, aim));
}

std::size_t Predictor::num_requests() const { return compiled_.get_property(ov::optimal_number_of_infer_requests); }

void Predictor::fill(ov::InferRequest& request, std::size_t row, const Picture& picture) const {
    const Picture square = preprocessed(picture, card_.preprocess);
    auto* pixels = request.get_input_tensor().data<std::uint8_t>() + row * square.rgb.size();
    std::copy(square.rgb.begin(), square.rgb.end(), pixels);
}

std::vector<Guess> Predictor::guesses(ov::InferRequest& request, std::size_t row, std::size_t top) const {
    const ov::Tensor output = request.get_output_tensor();
    const std::size_t count = output.get_size() / batch_;
    const auto* first = output.data<const float>() + row * count;
    const std::vector<float> logits(first, first + count);
    if (!std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); })) {
        throw Error(card_.name + " answers with logits that are not finite; export it again");
    }
    const std::vector<float> probabilities = card_.multi_label ? sigmoid(logits) : softmax(logits);
    std::vector<std::size_t> order(logits.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto one, auto other) { return logits[one] > logits[other]; });
    order.resize(std::min(top, order.size()));
    std::vector<Guess> best;
    for (const std::size_t index : order) best.push_back({index, card_.labels[index], probabilities[index]});
    return best;
}

}  // namespace anabranch

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "bench.hpp"
#include "error.hpp"
#include "files.hpp"
#include "pipeline.hpp"
#include "text.hpp"

namespace anabranch {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr char kUsage[] =
    R"(predict ARTEFACT IMAGE...         the best classes of each JPEG
predict ARTEFACT FOLDER...        of every JPEG at any depth, as CSV
predict ARTEFACT --bench [IMAGE]  cold start, latency and throughput

  --top N           classes for each picture (5)
  --json            for machines
  --precision P     f32, bf16 or int8 (f32 where the artefact has it)
  --threads N       of inference (as many as there are cores)
)";

struct Arguments {
    fs::path artefact;
    std::vector<fs::path> paths;
    Engine engine;
    int top = 5;
    bool json = false;
    bool bench = false;
    bool help = false;
};

int at_least_one(const std::string& option, const std::string& text) {
    int number = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (failed != std::errc{} || end != text.data() + text.size() || number < 1) {
        throw UsageError(option + " " + text + " does not fit: a whole number of at least 1 is wanted");
    }
    return number;
}

void check(const Arguments& arguments) {
    const std::string precision = arguments.engine.precision.value_or("f32");
    if (precision != "f32" && precision != "bf16" && precision != "int8") {
        throw UsageError("--precision " + precision + " is not known here; f32, bf16 or int8 is wanted");
    }
    if (arguments.bench && arguments.paths.size() > 1) throw UsageError("--bench takes one picture or none");
    if (!arguments.bench && arguments.paths.empty()) throw UsageError("no picture is named; give a JPEG or a folder");
}

Arguments parsed(const std::vector<std::string>& words) {
    Arguments arguments;
    std::vector<fs::path> places;
    for (auto word = words.begin(); word != words.end(); ++word) {
        const auto value = [&, option = *word] {
            if (++word == words.end()) throw UsageError(option + " wants a value; see predict --help");
            return *word;
        };
        if (*word == "--top") {
            arguments.top = at_least_one("--top", value());
        } else if (*word == "--threads") {
            arguments.engine.threads = at_least_one("--threads", value());
        } else if (*word == "--precision") {
            arguments.engine.precision = value();
        } else if (*word == "--json") {
            arguments.json = true;
        } else if (*word == "--bench") {
            arguments.bench = true;
        } else if (*word == "--help") {
            arguments.help = true;
        } else if (word->rfind("--", 0) == 0) {
            throw UsageError("no option is called " + *word + "; see predict --help");
        } else {
            places.emplace_back(*word);
        }
    }
    if (arguments.help) return arguments;
    if (places.empty()) throw UsageError("no artefact is named; see predict --help");
    arguments.artefact = places.front();
    arguments.paths.assign(places.begin() + 1, places.end());
    check(arguments);
    return arguments;
}

// For each picture its name and a line a guess.
void write_block(const Answer& answer) {
    if (!answer.error.empty()) return;
    const auto length = [](const std::string& text) {  // of UTF-8, in characters
        return std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
    };
    std::ptrdiff_t longest = 0;
    for (const Guess& guess : answer.guesses) longest = std::max(longest, length(spelt(guess.label)));
    std::cout << spelt(answer.picture) << '\n' << std::fixed << std::setprecision(2);
    for (const Guess& guess : answer.guesses) {
        const std::string label = spelt(guess.label);
        const auto padding = static_cast<std::size_t>(longest - length(label));
        std::cout << "  " << label << std::string(padding, ' ') << "  " << std::setw(6)
                  << 100.0 * guess.probability << " %\n";
    }
}

ordered_json as_json(const Answer& answer) {
    if (!answer.error.empty()) return {{"picture", answer.picture}, {"error", answer.error}};
    ordered_json guesses = ordered_json::array();
    for (const Guess& guess : answer.guesses) {
        guesses.push_back({{"class", guess.class_index},
                           {"label", guess.label},
                           {"probability", std::round(1e6 * guess.probability) / 1e6}});
    }
    return {{"picture", answer.picture}, {"guesses", guesses}};
}

// As `anabranch classify` writes it: UTF-8, a carriage return spelt out, and quoted where it must be.
std::string cell(const std::string& said) {
    std::string text;
    for (const char letter : utf8(said)) text += letter == '\r' ? std::string("\\r") : std::string(1, letter);
    if (text.find_first_of(",\"\n") == std::string::npos) return text;
    std::string quoted = "\"";
    for (const char letter : text) quoted += letter == '"' ? std::string("\"\"") : std::string(1, letter);
    return quoted + '"';
}

// One row a picture, with the columns of `anabranch classify --csv`.
void write_row(const Answer& answer, std::size_t top) {
    std::cout << cell(answer.picture) << std::fixed << std::setprecision(6);
    for (const Guess& guess : answer.guesses) std::cout << ',' << cell(guess.label) << ',' << guess.probability;
    if (answer.guesses.empty()) std::cout << std::string(2 * top, ',');
    std::cout << ',' << cell(answer.error) << '\n';
}

void write_header(std::size_t top) {
    std::cout << "picture";
    for (std::size_t rank = 1; rank <= top; ++rank) std::cout << ",label" << rank << ",probability" << rank;
    std::cout << ",error\n";
}

std::string dumped(const ordered_json& value) {
    return value.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

// The exit status: 1 where a picture could not be read.
int run_classify(const Arguments& arguments) {
    std::vector<fs::path> pictures;
    bool as_csv = false;
    for (const fs::path& path : arguments.paths) {
        if (std::error_code failed; fs::is_directory(path, failed)) {
            const std::vector<fs::path> found = pictures_in(path);
            std::transform(found.begin(), found.end(), std::back_inserter(pictures), plain);
            as_csv = !arguments.json;
        } else {
            pictures.push_back(plain(path));
        }
    }
    const Aim aim = pictures.size() == 1 ? Aim::latency : Aim::throughput;
    Predictor predictor(arguments.artefact, arguments.engine, aim, batch_for(pictures.size()));
    const std::size_t top = std::min(static_cast<std::size_t>(arguments.top), predictor.card().labels.size());
    ordered_json answers = ordered_json::array();
    if (as_csv) write_header(top);
    bool all_read = true;
    classify(predictor, pictures, top, [&](const Answer& answer) {
        if (!answer.error.empty()) {
            std::cerr << "error: " << spelt(answer.error) << '\n';
            all_read = false;
        }
        if (arguments.json) {
            answers.push_back(as_json(answer));
        } else if (as_csv) {
            write_row(answer, top);
        } else {
            write_block(answer);
        }
    });
    if (arguments.json) std::cout << dumped(answers) << '\n';
    return all_read ? 0 : 1;
}

void run_bench(const Arguments& arguments) {
    const Measured measured =
        bench(arguments.artefact, arguments.paths.empty() ? std::nullopt : std::optional(arguments.paths.front()),
              arguments.engine);
    if (arguments.json) {
        std::cout << dumped({{"model", measured.model},
                             {"precision", measured.precision},
                             {"cold_start_ms", measured.cold_start_ms},
                             {"latency_ms", measured.latency_ms},
                             {"num_latencies", measured.num_latencies},
                             {"throughput_per_s", measured.throughput_per_s}})
                  << '\n';
        return;
    }
    std::cout << std::fixed << std::setprecision(2) << spelt(measured.model) << " on openvino " << measured.precision << '\n'
              << "cold start  " << measured.cold_start_ms << " ms, from the process's start to the first answer\n"
              << "latency     " << measured.latency_ms << " ms, median of " << measured.num_latencies << ", batch 1\n"
              << "throughput  " << measured.throughput_per_s << " pictures/s\n";
}

int run(const std::vector<std::string>& words) {
    const Arguments arguments = parsed(words);
    int status = 0;
    if (arguments.help) {
        std::cout << kUsage;
    } else if (arguments.bench) {
        run_bench(arguments);
    } else {
        status = run_classify(arguments);
    }
    if (!std::cout.flush()) throw Error("standard output cannot be written");
    return status;
}

}  // namespace
}  // namespace anabranch

// 0: answered; 1: it failed, in part or as a whole; 2: it was asked wrongly.
int main(int count, char** words) {
    std::ios::sync_with_stdio(false);
    try {
        return anabranch::run({words + 1, words + count});
    } catch (const anabranch::UsageError& error) {
        std::cerr << "error: " << anabranch::spelt(error.what()) << '\n';
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "error: " << anabranch::spelt(error.what()) << '\n';
        return 1;
    }
}

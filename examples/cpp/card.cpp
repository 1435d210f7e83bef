#include "card.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <utility>

#include "error.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace anabranch {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;  // of two files with the same ending the first one counts

constexpr std::int64_t kCardVersion = 1;
constexpr std::int64_t kMaxSidePx = 65'535;
constexpr int kMaxDepth = 500;  // of objects and lists in one another
constexpr char kCopyAgain[] = ". Copy or export the artefact again";

// A value of a card, and where it stands there.
class Said {
public:
    Said(const json& value, std::string file, std::string key = "")
        : value_(value), file_(std::move(file)), key_(std::move(key)) {}

    std::string where() const { return key_.empty() ? file_ : file_ + ": " + key_; }

    [[noreturn]] void refuse(const std::string& wanted) const {
        const std::string met = value_.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 80);
        throw Error(where() + " is " + met + "; " + wanted + " was expected");
    }

    bool has(const std::string& key) const {
        if (!value_.is_object()) refuse("an object");
        return value_.contains(key);
    }

    Said at(const std::string& key) const {
        if (!has(key)) throw Error(where() + " lacks '" + key + "'");
        return {value_.at(key), file_, key_.empty() ? key : key_ + "." + key};
    }

    std::vector<std::string> keys() const {
        if (!value_.is_object()) refuse("an object");
        std::vector<std::string> all;
        for (const auto& item : value_.items()) all.push_back(item.key());
        return all;
    }

    std::string text() const {
        if (!value_.is_string()) refuse("a text");
        return value_.get<std::string>();
    }

    bool truth() const {
        if (!value_.is_boolean()) refuse("true or false");
        return value_.get<bool>();
    }

    std::int64_t whole(std::int64_t least, std::int64_t most = std::numeric_limits<std::int64_t>::max()) const {
        if (!value_.is_number_integer() || value_ < least || value_ > most) {
            refuse("a whole number of at least " + std::to_string(least) +
                   (most < std::numeric_limits<std::int64_t>::max() ? ", at most " + std::to_string(most) : ""));
        }
        return value_.get<std::int64_t>();
    }

    std::string sha256() const {
        const std::string digits = value_.is_string() ? value_.get<std::string>() : "";
        if (digits.size() != 64 || digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
            refuse("64 hexadecimal digits");
        }
        return digits;
    }

    template <typename Choice>
    Choice one_of(const std::vector<std::pair<std::string, Choice>>& choices) const {
        std::string known;
        for (const auto& [name, choice] : choices) {
            if (value_ == name) return choice;
            known += (known.empty() ? "" : " or ") + name;
        }
        refuse(known);
    }

private:
    const json& value_;
    std::string file_;
    std::string key_;
};

std::string content(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (!file) throw Error(path.string() + " cannot be read");
    return text;
}

Preprocess preprocess_of(const Said& said) {
    const Preprocess preprocess{
        said.at("crop_px").whole(1, kMaxSidePx),
        said.at("resize_px").whole(1, kMaxSidePx),
        said.at("fit").one_of<Fit>({{"shorter-side", Fit::shorter_side}, {"squash", Fit::squash}}),
        said.at("resampler").one_of<Resampler>({{"pillow-bilinear", Resampler::pillow_bilinear},
                                                {"pillow-bicubic", Resampler::pillow_bicubic},
                                                {"opencv-bilinear", Resampler::opencv_bilinear}}),
        said.at("rounding").one_of<Rounding>({{"torchvision", Rounding::torchvision},
                                              {"paddleclas", Rounding::paddleclas}}),
    };
    if (preprocess.rounding == Rounding::paddleclas && preprocess.resize_px < preprocess.crop_px) {
        said.at("resize_px").refuse("at least crop_px, because paddleclas does not pad,");
    }
    return preprocess;
}

File file_of(const std::string& name, const Said& files) {
    const fs::path path(name);
    const bool stays = !path.empty() && path.is_relative() && *path.begin() != ".." && name != "." &&
                       name.find_first_of(std::string("\\:\0", 3)) == std::string::npos &&
                       path.lexically_normal().native() == name;
    if (!stays) {
        throw Error(files.where() + ": '" + spelt(name) + "' leaves the folder; a plain path inside it was expected");
    }
    const Said file = files.at(name);
    return {name, static_cast<std::uintmax_t>(file.at("bytes").whole(0)), file.at("sha256").sha256()};
}

std::map<std::string, std::vector<File>> graphs_of(const Said& formats) {
    std::map<std::string, std::vector<File>> graphs;
    if (!formats.has("openvino")) return graphs;
    const Said precisions = formats.at("openvino");
    for (const std::string& precision : precisions.keys()) {
        const Said files = precisions.at(precision).at("files");
        for (const std::string& name : files.keys()) graphs[precision].push_back(file_of(name, files));
    }
    return graphs;
}

// As strict as Python: a key that occurs twice is refused, and so is a byte order mark.
json parsed(const fs::path& path) {
    const std::string text = content(path);
    const auto refuse = [&](const std::string& why) {
        throw Error(path.string() + " is damaged: " + why + kCopyAgain);
    };
    if (text.rfind("\xEF\xBB\xBF", 0) == 0) refuse("it begins with a byte order mark");
    std::vector<std::set<std::string>> keys;  // of the objects around what is read
    const json value = json::parse(
        text,
        [&](int depth, json::parse_event_t event, json& met) {
            if (depth > kMaxDepth) refuse("it is nested too deep");
            if (event == json::parse_event_t::object_start) keys.emplace_back();
            if (event == json::parse_event_t::object_end) keys.pop_back();
            if (event == json::parse_event_t::key && !keys.back().insert(met.get<std::string>()).second) {
                refuse("the key '" + met.get<std::string>() + "' occurs twice in one object");
            }
            return true;
        },
        false);
    if (value.is_discarded()) refuse("it is not JSON");
    return value;
}

std::vector<std::string> labels_in(const fs::path& path) {
    if (!fs::is_regular_file(path)) {
        throw Error(path.parent_path().string() + " is incomplete: " + path.filename().string() + " is missing" +
                    kCopyAgain);
    }
    const std::string text = content(path);
    if (utf8(text) != text) throw Error(path.string() + " is not UTF-8" + kCopyAgain);
    std::istringstream lines(text);
    std::vector<std::string> labels;
    for (std::string line; std::getline(lines, line); labels.push_back(line)) {
        if (line.empty() || line.find('\r') != std::string::npos) {
            throw Error(path.string() + ", line " + std::to_string(labels.size() + 1) + " is '" + line +
                        "': a label is one line that is not empty");
        }
    }
    return labels;
}

void check_labels(const std::vector<std::string>& labels, const Said& said) {
    const Said count = said.at("count");
    if (static_cast<std::int64_t>(labels.size()) != count.whole(1)) {
        throw Error(count.where() + " is " + std::to_string(count.whole(1)) + ", but the labels beside it are " +
                    std::to_string(labels.size()));
    }
    Sha256 hash;
    for (const std::string& label : labels) hash.add(label + "\n");
    if (const Said sha256 = said.at("sha256"); hash.digits() != sha256.sha256()) {
        throw Error(sha256.where() + " is not that of the labels beside it" + kCopyAgain);
    }
}

void check_version(const Said& version) {
    const std::int64_t met = version.whole(kCardVersion);
    if (met > kCardVersion) {
        throw Error(version.where() + " is " + std::to_string(met) +
                    ", made by a newer anabranch; this program reads " + std::to_string(kCardVersion) +
                    ". Build the one that came with it");
    }
}

}  // namespace

Card read_card(const fs::path& folder) {
    const fs::path path = folder / "card.json";
    if (!fs::is_directory(folder)) throw Error(folder.string() + " is not an artefact: there is no such folder");
    if (!fs::is_regular_file(path)) {
        throw Error(folder.string() + " is not an artefact: it holds no card.json. 'anabranch export' makes one");
    }
    const json value = parsed(path);
    const Said card(value, path.string());
    check_version(card.at("card_version"));
    Card read{
        card.at("weights").at("name").text(),
        labels_in(folder / "labels.txt"),
        card.has("multi_label") && card.at("multi_label").truth(),
        preprocess_of(card.at("preprocess")),
        graphs_of(card.at("graphs")),
    };
    check_labels(read.labels, card.at("labels"));
    return read;
}

std::vector<fs::path> checked_files(const fs::path& folder, const std::vector<File>& files) {
    const fs::path home = fs::canonical(folder);
    std::vector<fs::path> paths;
    for (const File& wanted : files) {
        const fs::path path = folder / wanted.name;
        const fs::path real = fs::weakly_canonical(path);
        if (std::mismatch(home.begin(), home.end(), real.begin(), real.end()).first != home.end()) {
            throw Error(path.string() + " leads out of the artefact, to " + real.string() +
                        "; a file inside it was expected");
        }
        if (!fs::is_regular_file(path)) {
            throw Error(folder.string() + " is incomplete: " + wanted.name + " is missing" + kCopyAgain);
        }
        if (const std::uintmax_t met = fs::file_size(path); met != wanted.size_bytes) {
            throw Error(path.string() + " holds " + std::to_string(met) + " bytes; the card says " +
                        std::to_string(wanted.size_bytes) + kCopyAgain);
        }
        if (const std::string met = sha256_of(path); met != wanted.sha256) {  // told with three dots each
            throw Error(path.string() + " is not the file that the card describes: its SHA-256 is " +
                        met.substr(0, 12) + "..., the card says " + wanted.sha256.substr(0, 12) + ".." + kCopyAgain);
        }
        paths.push_back(path);
    }
    return paths;
}

}  // namespace anabranch

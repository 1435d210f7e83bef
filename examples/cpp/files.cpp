#include "files.hpp"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <set>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>

#include "error.hpp"
#include "text.hpp"

namespace anabranch {
namespace {

namespace fs = std::filesystem;

bool is_hidden(const fs::path& path) { return path.filename().string().front() == '.'; }

bool is_jpeg(const fs::path& path) {
    static const std::set<std::string> suffixes{".jpg", ".jpeg", ".jpe", ".jfif"};
    std::string suffix = path.extension().string();
    std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
    return suffixes.count(suffix) == 1;
}

// Where a folder really is; as it is named, where the system cannot tell.
fs::path followed(const fs::path& folder) {
    std::error_code failed;
    const fs::path target = fs::canonical(folder, failed);
    return failed ? fs::absolute(folder, failed).lexically_normal() : target;
}

struct Held {
    std::vector<fs::path> folders, pictures;
};

// What a folder holds but for hidden names, pipes and devices; a link that leads nowhere is a picture that cannot be
// read. Throws Error where the folder cannot be read to its end.
Held held_by(const fs::path& folder) {
    std::error_code failed;
    Held held;
    for (fs::directory_iterator entry(folder, failed), end; entry != end; entry.increment(failed)) {
        if (is_hidden(*entry)) continue;
        if (std::error_code unknown; entry->is_directory(unknown)) {
            held.folders.push_back(*entry);
        } else if (is_jpeg(*entry) && (entry->is_regular_file(unknown) || !entry->exists(unknown))) {
            held.pictures.push_back(*entry);
        }
    }
    if (failed) {
        throw Error(folder.string() + ": this folder cannot be read: " + failed.message() +
                    "; make it readable, or move it elsewhere");
    }
    return held;
}

// Whether a folder is, by whatever way, one of those above it, or holds one of them.
bool leads_back(const fs::path& folder, const std::vector<fs::path>& above) {
    const fs::path target = followed(folder);
    return std::any_of(above.begin(), above.end(), [&](const fs::path& each) {
        return std::mismatch(target.begin(), target.end(), each.begin(), each.end()).first == target.end();
    });
}

// Folder by folder and, in each, letter by letter. Each path's letters are made out once.
void sort(std::vector<fs::path>& paths) {
    std::vector<std::tuple<std::u32string, std::u32string, fs::path>> keyed;
    for (fs::path& path : paths) {
        keyed.emplace_back(letters(path.parent_path().native()), letters(path.filename().native()), std::move(path));
    }
    std::sort(keyed.begin(), keyed.end());
    std::transform(keyed.begin(), keyed.end(), paths.begin(), [](auto& each) { return std::move(std::get<2>(each)); });
}

}  // namespace

fs::path plain(const fs::path& path) {
    fs::path short_one;
    for (const fs::path& part : path) {
        if (!part.empty() && part != ".") short_one /= part;
    }
    return short_one.empty() ? "." : short_one;
}

std::vector<fs::path> pictures_in(const fs::path& folder) {
    std::vector<fs::path> pictures;
    std::vector<std::pair<fs::path, std::vector<fs::path>>> waiting{{folder, {}}};  // each with the folders above it
    while (!waiting.empty()) {
        auto [place, above] = std::move(waiting.back());
        waiting.pop_back();
        above.push_back(followed(place));
        Held held = held_by(place);
        std::move(held.pictures.begin(), held.pictures.end(), std::back_inserter(pictures));
        for (const fs::path& each : held.folders) {
            if (!leads_back(each, above)) waiting.emplace_back(each, above);
        }
    }
    if (pictures.empty()) throw Error(folder.string() + ": no JPEG in this folder");
    sort(pictures);
    return pictures;
}

}  // namespace anabranch

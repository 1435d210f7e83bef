#include "files.hpp"

#include <algorithm>
#include <cctype>
#include <set>
#include <string>
#include <tuple>

#include "error.hpp"

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

// Whether a linked folder holds the link itself, so that following it would never end.
bool leads_up(const fs::path& link) {
    const fs::path target = fs::canonical(link);
    const fs::path home = fs::canonical(link.parent_path());
    return std::mismatch(target.begin(), target.end(), home.begin(), home.end()).first == target.end();
}

bool comes_before(const fs::path& one, const fs::path& other) {
    const auto key = [](const fs::path& path) {
        return std::pair(path.parent_path().native(), path.filename().native());
    };
    return key(one) < key(other);
}

}  // namespace

std::vector<fs::path> pictures_in(const fs::path& folder) {
    std::vector<fs::path> pictures;
    for (auto entry = fs::recursive_directory_iterator(
             folder, fs::directory_options::follow_directory_symlink | fs::directory_options::skip_permission_denied);
         entry != fs::recursive_directory_iterator(); ++entry) {
        if (entry->is_directory()) {
            const bool passed_over = is_hidden(*entry) || (entry->is_symlink() && leads_up(*entry));
            if (passed_over) entry.disable_recursion_pending();
        } else if (is_jpeg(*entry) && !is_hidden(*entry)) {
            pictures.push_back(*entry);
        }
    }
    if (pictures.empty()) throw Error(folder.string() + ": no JPEG in this folder");
    std::sort(pictures.begin(), pictures.end(), comes_before);
    return pictures;
}

}  // namespace anabranch

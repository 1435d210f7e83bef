// Which pictures a folder holds.
#pragma once

#include <filesystem>
#include <vector>

namespace anabranch {

// The path without what leads nowhere, "./a//b/" being "a/b", as Python's pathlib writes it.
std::filesystem::path plain(const std::filesystem::path& path);

// Every JPEG at any depth, told by its suffix, folder by folder and sorted, as Python's anabranch.images.files does.
// Passed over are names that begin with a dot, and links that lead back to where one came from. Throws Error where there
// is none, or a folder cannot be read.
std::vector<std::filesystem::path> pictures_in(const std::filesystem::path& folder);

}  // namespace anabranch

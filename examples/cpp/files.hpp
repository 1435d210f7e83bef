// Which pictures a folder holds.
#pragma once

#include <filesystem>
#include <vector>

namespace anabranch {

// Every JPEG at any depth, told by its suffix, folder by folder and sorted, as Python's anabranch.images.files does.
// Passed over are names that begin with a dot, links that lead back to where one came from, and what cannot be looked
// at. Throws Error where there is none.
std::vector<std::filesystem::path> pictures_in(const std::filesystem::path& folder);

}  // namespace anabranch

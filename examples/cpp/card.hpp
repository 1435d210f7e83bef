// The card of an artefact: what the files are and what goes in. Of Python's anabranch.card, what an answer needs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "picture.hpp"

namespace anabranch {

struct File {
    std::string name;  // relative path with forward slashes
    std::uintmax_t size_bytes;
    std::string sha256;  // in hexadecimal
};

struct Card {
    std::string name;                                // of the weights
    std::vector<std::string> labels;                 // in the order of the logits
    bool multi_label;                                // each logit answers for itself
    Preprocess preprocess;
    std::map<std::string, std::vector<File>> graphs;  // OpenVINO's files for each precision
};

// The card and the labels of an artefact. Throws Error.
Card read_card(const std::filesystem::path& folder);

// Where these files lie, once each is inside the folder and is, to the last bit, the one that the card describes.
// Throws Error.
std::vector<std::filesystem::path> checked_files(const std::filesystem::path& folder, const std::vector<File>& files);

}  // namespace anabranch

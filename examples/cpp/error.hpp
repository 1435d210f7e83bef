#pragma once

#include <stdexcept>

namespace anabranch {

// What a user can mend: one sentence that says what was met, what was wanted and what to do.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The command line itself is wrong.
struct UsageError : Error {
    using Error::Error;
};

}  // namespace anabranch

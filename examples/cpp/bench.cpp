#include "bench.hpp"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

namespace anabranch {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

constexpr int kLatencies = 200;
constexpr int kWarmUps = 20;
constexpr std::chrono::seconds kThroughputFor{3};

// Since this process was started, to a tick of the kernel's (10 ms): field 22 of proc_pid_stat(5), in ticks since boot.
double process_age_ms() {
    std::ifstream file("/proc/self/stat");
    std::string stat;
    std::getline(file, stat);
    std::istringstream fields(stat.substr(stat.rfind(')') + 1));  // from the third on; the second may hold spaces
    std::string field;
    for (int number = 3; number <= 22; ++number) fields >> field;
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    const double start_s = std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
    return 1000.0 * (static_cast<double>(now.tv_sec) - start_s) + static_cast<double>(now.tv_nsec) / 1e6;
}

double median_latency_ms(ov::InferRequest& request) {
    std::vector<double> each;
    for (int i = -kWarmUps; i < kLatencies; ++i) {
        const auto start = Clock::now();
        request.infer();
        if (i >= 0) each.push_back(Milliseconds(Clock::now() - start).count());
    }
    std::nth_element(each.begin(), each.begin() + kLatencies / 2, each.end());
    return each[kLatencies / 2];
}

double throughput_per_s(Predictor& predictor, const Picture& picture) {
    std::vector<ov::InferRequest> requests(predictor.num_requests());
    for (ov::InferRequest& request : requests) {
        request = predictor.request();
        for (std::size_t row = 0; row < predictor.batch(); ++row) predictor.fill(request, row, picture);
        request.infer();
        request.start_async();
    }
    std::size_t num_done = 0;
    const auto start = Clock::now();
    while (Clock::now() - start < kThroughputFor) {
        for (ov::InferRequest& request : requests) {
            request.wait();
            request.start_async();
            num_done += predictor.batch();
        }
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    for (ov::InferRequest& request : requests) request.wait();
    return static_cast<double>(num_done) / seconds;
}

}  // namespace

Measured bench(const std::filesystem::path& folder, const std::optional<std::filesystem::path>& picture,
               const Engine& engine) {
    Predictor predictor(folder, engine, Aim::latency);
    const std::int64_t side = predictor.card().preprocess.crop_px;
    const Picture pixels = picture ? decode(*picture) : Picture(side, side);
    ov::InferRequest request = predictor.request();
    predictor.fill(request, 0, pixels);
    request.infer();
    predictor.guesses(request, 0, 1);
    const double cold_start_ms = process_age_ms();
    const double latency_ms = median_latency_ms(request);
    Predictor busy(folder, engine, Aim::throughput, kBatch);
    return {predictor.card().name, predictor.precision(), cold_start_ms, latency_ms, kLatencies,
            throughput_per_s(busy, pixels)};
}

}  // namespace anabranch

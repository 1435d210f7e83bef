#include "pipeline.hpp"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "error.hpp"

namespace anabranch {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMany = 4 * kBatch;  // pictures for each core from which on they go in batches
constexpr std::size_t kMostReaders = 32;   // each holds a picture as it was taken

std::size_t num_cores() { return std::max(1U, std::thread::hardware_concurrency()); }

// The pictures of batch i are read into slot i modulo their number, and inferred there; the slot is free again once all
// of them are answered.
struct Slot {
    ov::InferRequest request;
    std::vector<std::string> errors;  // of each picture: empty, or what stands in its way
    bool started = false;
};

class Pipeline {
public:
    Pipeline(Predictor& predictor, const std::vector<fs::path>& pictures)
        : predictor_(predictor),
          pictures_(pictures),
          batch_(predictor.batch()),
          num_batches_((pictures.size() + batch_ - 1) / batch_) {
        const std::size_t num_readers = std::min({num_cores(), kMostReaders, num_batches_});
        // Enough that neither side waits for the other on a machine that is shared.
        slots_.resize(std::min(num_readers + 4 * predictor.num_requests(), num_batches_));
        for (Slot& slot : slots_) slot.request = predictor.request();
        readers_.reserve(num_readers);
        while (readers_.size() < num_readers && start_reader()) {
        }
        if (readers_.empty()) throw Error("the system has no thread left to read pictures; end other programs first");
    }

    Pipeline(const Pipeline&) = delete;
    Pipeline& operator=(const Pipeline&) = delete;

    ~Pipeline() {
        {
            const std::lock_guard lock(mutex_);
            next_ = num_batches_;
        }
        changed_.notify_all();
        for (std::thread& reader : readers_) reader.join();
    }

    // Of the next picture; waits for it.
    Answer answer(std::size_t top) {
        Slot& slot = slots_[num_answered_ / batch_ % slots_.size()];
        const std::size_t row = num_answered_ % batch_;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return slot.started; });
        }
        Answer answer{pictures_[num_answered_].string(), {}, slot.errors[row]};
        if (answer.error.empty()) {
            slot.request.wait();
            answer.error = guess(slot.request, row, top, answer);
        }
        {
            const std::lock_guard lock(mutex_);
            ++num_answered_;
            slot.started = row + 1 < slot.errors.size();
        }
        changed_.notify_all();
        return answer;
    }

private:
    // False where the system has no thread left, and those that there are must do.
    bool start_reader() try {
        readers_.emplace_back([this] { read_pictures(); });
        return true;
    } catch (const std::system_error&) {
        return false;
    }

    void read_pictures() {
        Picture decoded;
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [&] {
                return next_ == num_batches_ || next_ < num_answered_ / batch_ + slots_.size();
            });
            if (next_ == num_batches_) return;
            const std::size_t first = next_ * batch_;
            Slot& slot = slots_[next_++ % slots_.size()];
            lock.unlock();
            start(slot, first, decoded);
            lock.lock();
            slot.started = true;
            changed_.notify_all();
        }
    }

    // Read the batch that begins with picture `first`, and let what could be read be inferred.
    void start(Slot& slot, std::size_t first, Picture& decoded) const {
        slot.errors.assign(std::min(batch_, pictures_.size() - first), "");
        for (std::size_t row = 0; row < slot.errors.size(); ++row) {
            slot.errors[row] = fill(slot.request, row, pictures_[first + row], decoded);
        }
        const auto readable = [](const std::string& error) { return error.empty(); };
        try {
            if (std::any_of(slot.errors.begin(), slot.errors.end(), readable)) slot.request.start_async();
        } catch (const std::exception& error) {
            std::replace_if(slot.errors.begin(), slot.errors.end(), readable, error.what());
        }
    }

    // Empty, or what stands in the way; so do the next two.
    std::string fill(ov::InferRequest& request, std::size_t row, const fs::path& path, Picture& decoded) const try {
        if (const std::string error = read(path, decoded); !error.empty()) return error;
        predictor_.fill(request, row, decoded);
        return "";
    } catch (const std::exception& error) {  // such as a lack of memory, which names no picture
        return path.string() + ": " + error.what();
    }

    static std::string read(const fs::path& path, Picture& decoded) try {
        decode(path, decoded);
        return "";
    } catch (const Error& error) {
        return error.what();
    }

    std::string guess(ov::InferRequest& request, std::size_t row, std::size_t top, Answer& answer) const try {
        answer.guesses = predictor_.guesses(request, row, top);
        return "";
    } catch (const Error& error) {
        return answer.picture + ": " + error.what();
    }

    Predictor& predictor_;
    const std::vector<fs::path>& pictures_;
    std::vector<Slot> slots_;
    std::vector<std::thread> readers_;
    std::mutex mutex_;
    std::condition_variable changed_;
    const std::size_t batch_;
    const std::size_t num_batches_;
    std::size_t next_ = 0;          // batch to be read
    std::size_t num_answered_ = 0;  // pictures before it are answered
};

}  // namespace

std::size_t batch_for(std::size_t num_pictures) { return num_pictures < kMany * num_cores() ? 1 : kBatch; }

void classify(Predictor& predictor, const std::vector<fs::path>& pictures, std::size_t top,
              const std::function<void(const Answer&)>& report) {
    Pipeline pipeline(predictor, pictures);
    for (std::size_t i = 0; i < pictures.size(); ++i) report(pipeline.answer(top));
}

}  // namespace anabranch

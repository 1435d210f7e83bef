#include "pipeline.hpp"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "error.hpp"

namespace anabranch {
namespace {

namespace fs = std::filesystem;

// Picture i is read into slot i modulo their number, and inferred there; the slot is free again once it is answered.
struct Slot {
    ov::InferRequest request;
    std::string error;
    bool started = false;
};

class Pipeline {
public:
    Pipeline(Predictor& predictor, const std::vector<fs::path>& pictures)
        : predictor_(predictor), pictures_(pictures) {
        const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
        const std::size_t num_readers = std::min({cores, std::size_t{8}, pictures.size()});
        // Enough that neither side waits for the other on a machine that is shared.
        slots_.resize(std::min(num_readers + 4 * predictor.num_requests(), pictures.size()));
        for (Slot& slot : slots_) slot.request = predictor.request();
        for (std::size_t i = 0; i < num_readers; ++i) readers_.emplace_back([this] { read_pictures(); });
    }

    Pipeline(const Pipeline&) = delete;
    Pipeline& operator=(const Pipeline&) = delete;

    ~Pipeline() {
        {
            const std::lock_guard lock(mutex_);
            next_ = pictures_.size();
        }
        changed_.notify_all();
        for (std::thread& reader : readers_) reader.join();
    }

    // Of the next picture; waits for it.
    Answer answer(std::size_t top) {
        Slot& slot = slots_[num_answered_ % slots_.size()];
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return slot.started; });
        }
        Answer answer{pictures_[num_answered_].string(), {}, slot.error};
        if (slot.error.empty()) {
            slot.request.wait();
            answer.guesses = predictor_.guesses(slot.request, top);
        }
        {
            const std::lock_guard lock(mutex_);
            slot.started = false;
            ++num_answered_;
        }
        changed_.notify_all();
        return answer;
    }

private:
    void read_pictures() {
        Picture decoded;
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [&] { return next_ == pictures_.size() || next_ < num_answered_ + slots_.size(); });
            if (next_ == pictures_.size()) return;
            const fs::path& path = pictures_[next_];
            Slot& slot = slots_[next_++ % slots_.size()];
            lock.unlock();
            slot.error = start(slot.request, path, decoded);
            lock.lock();
            slot.started = true;
            changed_.notify_all();
        }
    }

    // Empty, or what stands in the way.
    std::string start(ov::InferRequest& request, const fs::path& path, Picture& decoded) const try {
        decode(path, decoded);
        predictor_.fill(request, decoded);
        request.start_async();
        return "";
    } catch (const Error& error) {
        return error.what();
    } catch (const std::exception& error) {  // such as a lack of memory, which names no picture
        return path.string() + ": " + error.what();
    }

    Predictor& predictor_;
    const std::vector<fs::path>& pictures_;
    std::vector<Slot> slots_;
    std::vector<std::thread> readers_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t next_ = 0;          // picture to be read
    std::size_t num_answered_ = 0;  // pictures before it are answered
};

}  // namespace

void classify(Predictor& predictor, const std::vector<fs::path>& pictures, std::size_t top,
              const std::function<void(const Answer&)>& report) {
    Pipeline pipeline(predictor, pictures);
    for (std::size_t i = 0; i < pictures.size(); ++i) report(pipeline.answer(top));
}

}  // namespace anabranch

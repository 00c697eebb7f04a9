// Stand-in for the synthesis tool's hls::stream in builds on a host; never on a synthesis path.
//
// By default a stream holds any number of words, and processes run one after the other in the order
// in which they stand. With -DBP_BOUNDED a stream holds as many words as its depth says, every process
// runs in a thread of its own, and a writer waits while its stream is full. When all processes wait, none
// can ever go on: the program names what they wait for and ends with status 3. Whether that happens
// depends on the depths alone, not on the order in which threads run. With -DBP_TRACE all words
// are appended to the file that the environment variable BP_TRACE_FILE names.
#ifndef BP_HOST_HLS_STREAM_H
#define BP_HOST_HLS_STREAM_H

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>
#include <type_traits>
#include <vector>

#if defined(BP_BOUNDED)
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace bp_host {

class scheduler {
public:
    static scheduler &the()
    {
        static scheduler one;
        return one;
    }

    void spawn(const std::function<void()> &process)
    {
        std::lock_guard<std::mutex> guard(lock);
        ++running;
        threads.emplace_back([this, process] {
            process();
            leave();
        });
    }

    void join()
    {
        leave();
        for (std::thread &t : threads) {
            t.join();
        }
        threads.clear();
        running = 1;
        waiting = 0;
    }

    // Waits until `ready`; the caller holds `guard`. `waiting` counts those that have looked in vain
    // since something changed last.
    template <class F> void wait(std::unique_lock<std::mutex> &guard, const std::string &what, F ready)
    {
        while (!ready()) {
            const uint64_t seen = changes;
            ++blocked[what];
            ++waiting;
            check();
            changed.wait(guard, [&] { return changes != seen; });
            --blocked[what];
        }
    }

    void notify()
    {
        ++changes;
        waiting = 0;
        changed.notify_all();
    }

    std::mutex lock;

private:
    void leave()
    {
        std::lock_guard<std::mutex> guard(lock);
        --running;
        check();
    }

    void check() const
    {
        if (running == 0 || waiting < running) {
            return;
        }
        std::fprintf(stderr, "deadlock:");
        for (const auto &entry : blocked) {
            if (entry.second > 0) {
                std::fprintf(stderr, " %s;", entry.first.c_str());
            }
        }
        std::fprintf(stderr, "\n");
        std::_Exit(3);
    }

    std::condition_variable changed;
    std::vector<std::thread> threads;
    std::map<std::string, int> blocked;
    int running = 1; // the caller counts until it joins
    int waiting = 0;
    uint64_t changes = 0;
};

} // namespace bp_host

#define BP_PROCESS(...) bp_host::scheduler::the().spawn([&] { __VA_ARGS__; })
#define BP_JOIN() bp_host::scheduler::the().join()
#endif

namespace bp_host {

// The elements of a word, for traces; beats of ports have none.
template <class T, bool ARRAY = std::is_array<decltype(T::data)>::value> struct elements {
    static void collect(std::vector<int64_t> &, const T &) {}
};

template <class T> struct elements<T, true> {
    static void collect(std::vector<int64_t> &trace, const T &word)
    {
        for (const auto &element : word.data) {
            trace.push_back(static_cast<int64_t>(element));
        }
    }
};

inline void dump(const std::string &name, const std::vector<int64_t> &elements)
{
    const char *path = std::getenv("BP_TRACE_FILE");
    if (path == nullptr || elements.empty()) {
        return;
    }
    std::FILE *file = std::fopen(path, "ab");
    if (file == nullptr) {
        std::_Exit(4);
    }
    std::fprintf(file, "%s %zu\n", name.c_str(), elements.size());
    std::fwrite(elements.data(), sizeof(int64_t), elements.size(), file);
    std::fclose(file);
}

} // namespace bp_host

namespace hls {

template <class T, int DEPTH = 0> class stream;

// A stream as processes see it. A depth of zero has no bound.
template <class T> class stream<T, 0> {
public:
    explicit stream(const char *text = "", int bound = 0) : name(text), depth(bound) {}

    stream(const stream &) = delete;
    stream &operator=(const stream &) = delete;

    ~stream()
    {
#if defined(BP_TRACE)
        bp_host::dump(name, trace);
#endif
    }

    void write(const T &value)
    {
#if defined(BP_BOUNDED)
        bp_host::scheduler &all = bp_host::scheduler::the();
        std::unique_lock<std::mutex> guard(all.lock);
        all.wait(guard, "writing to full " + name, [&] { return depth == 0 || int(words.size()) < depth; });
        words.push_back(value);
        all.notify();
#else
        words.push_back(value);
#endif
#if defined(BP_TRACE)
        bp_host::elements<T>::collect(trace, value);
#endif
    }

    T read()
    {
#if defined(BP_BOUNDED)
        bp_host::scheduler &all = bp_host::scheduler::the();
        std::unique_lock<std::mutex> guard(all.lock);
        all.wait(guard, "reading from empty " + name, [&] { return !words.empty(); });
        const T value = words.front();
        words.pop_front();
        all.notify();
        return value;
#else
        if (words.empty()) {
            std::fprintf(stderr, "reading from empty %s\n", name.c_str());
            std::_Exit(3);
        }
        const T value = words.front();
        words.pop_front();
        return value;
#endif
    }

    bool empty() const { return words.empty(); }
    size_t size() const { return words.size(); }

private:
    std::string name;
    int depth;
    std::deque<T> words;
#if defined(BP_TRACE)
    std::vector<int64_t> trace;
#endif
};

template <class T, int DEPTH> class stream : public stream<T, 0> {
public:
    explicit stream(const char *text = "") : stream<T, 0>(text, DEPTH) {}
};

} // namespace hls

#endif

// CUDA C++ compiled for the host: a thread of the system for each thread of a block, one block after the other.
// The source under test comes by -include; KERNELS lists the kernels as X(name).
#include <barrier>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#define HOST
#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ static

struct index_t { unsigned x; };
thread_local index_t threadIdx, blockIdx;
static std::barrier<>* all_threads;
inline void __syncthreads() { all_threads->arrive_and_wait(); }

#include SOURCE

template <class... Arguments, std::size_t... I>
void launch(void (*kernel)(Arguments...), int grid, int block, void** arguments, std::index_sequence<I...>) {
    std::barrier<> barrier(block);
    all_threads = &barrier;
    std::vector<std::thread> threads;
    for (int t = 0; t < block; t++)
        threads.emplace_back([=] {
            threadIdx.x = t;
            for (int b = 0; b < grid; b++) {
                blockIdx.x = b;
                kernel(*(std::remove_const_t<Arguments>*)arguments[I]...);
                __syncthreads();
            }
        });
    for (auto& thread : threads) thread.join();
}
template <class... Arguments>
void launch(void (*kernel)(Arguments...), int grid, int block, void** arguments) {
    launch(kernel, grid, block, arguments, std::index_sequence_for<Arguments...>());
}

extern "C" void run(const char* name, int grid, int block, void** arguments) {
#define X(kernel) if (!std::strcmp(name, #kernel)) launch(kernel, grid, block, arguments);
    KERNELS
}

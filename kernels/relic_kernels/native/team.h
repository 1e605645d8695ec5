// The threads of a parallel region; without OpenMP there is one.
#pragma once

#include "lanes.h"

#if defined(_OPENMP)
#include <omp.h>
INLINE int thread_number() { return omp_get_thread_num(); }
INLINE int team_size() { return omp_get_num_threads(); }
#else
INLINE int thread_number() { return 0; }
INLINE int team_size() { return 1; }
#endif

INLINE void barrier() {
#pragma omp barrier
}

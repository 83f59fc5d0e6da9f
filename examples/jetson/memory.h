// Memory as Linux counts it. On a Jetson CPU and GPU share it: what is free tells of both, the process of the CPU's part.
#pragma once

#include <string>

// As "this process 96 MB, 5.1 of 7.4 GB free".
std::string memory();

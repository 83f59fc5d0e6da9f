// Whole numbers of a JSON text: the JSON library itself makes one of any number, whatever is lost.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

namespace seqexport {

// Throws std::invalid_argument for what is no whole number from `low` to `high`.
template <class T>
T whole(const nlohmann::json& value, T low = std::numeric_limits<T>::min(), T high = std::numeric_limits<T>::max()) {
  if (value.is_number_unsigned()) {  // so is every whole number that is not negative
    const auto given = value.get<uint64_t>();
    if (given <= uint64_t(high) && (low <= 0 || given >= uint64_t(low))) return T(given);
  } else if (value.is_number_integer()) {
    const auto given = value.get<int64_t>();
    if (std::numeric_limits<T>::is_signed && given >= int64_t(low)) return T(given);
  }
  throw std::invalid_argument("a number that is not whole, too small, or too large");
}

// Throws std::invalid_argument for what is no list of whole numbers of at least 0.
template <class T>
std::vector<T> whole_numbers(const nlohmann::json& list) {
  if (!list.is_array()) throw std::invalid_argument("no list of numbers where one is expected");
  std::vector<T> all;
  for (const nlohmann::json& each : list) all.push_back(whole<T>(each, 0));
  return all;
}

}  // namespace seqexport

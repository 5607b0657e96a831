// Unit test of tf_opt/ops/specializer.h, compiled and run by test_specialization.py. Prints the
// first check that fails.

#include "specializer.h"

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                  \
  do {                                                    \
    if (!(condition)) {                                   \
      std::printf("line %d: %s\n", __LINE__, #condition); \
      std::exit(1);                                       \
    }                                                     \
  } while (false)

using Specializer = tf_opt::Specializer<int>;
using Key = Specializer::Key;

// Calls with `key` until it is measured, the specialized engine taking `seconds` against 1.0.
void Measure(Specializer* specializer, const Key& key, double seconds) {
  for (int call = 0; call < 22; ++call) {
    const Specializer::Choice choice = specializer->Choose(key);
    CHECK(choice.measure);
    CHECK((choice.variant != nullptr) == (call % 2 == 0));  // Alternating.
    specializer->Measured(key, choice.variant != nullptr, choice.variant ? seconds : 1.0);
  }
}

// Counts `key` up to its compilation and finishes that.
void Compile(Specializer* specializer, const Key& key, int after) {
  for (int call = 1; call < after; ++call) CHECK(!specializer->Choose(key).compile);
  CHECK(specializer->Choose(key).compile);
  CHECK(!specializer->Choose(key).compile);  // Once.
  CHECK(specializer->Choose(key).variant == nullptr);
  specializer->Compiled(key, std::make_shared<int>(1));
}

void KeepsTheFasterAndRemembersTheRejected() {
  tf_opt::Statistics statistics;
  Specializer specializer(3, 16, &statistics);
  const Key faster{1, 8}, slower{2, 8}, same{3, 8};
  Compile(&specializer, faster, 3);
  Measure(&specializer, faster, 0.9);
  CHECK(statistics.specialized_kept == 1);
  CHECK(specializer.Choose(faster).variant != nullptr);
  CHECK(!specializer.Choose(faster).measure);
  Compile(&specializer, slower, 3);
  Measure(&specializer, slower, 1.1);
  Compile(&specializer, same, 3);
  Measure(&specializer, same, 0.99);  // Not worth the memory.
  CHECK(statistics.specialized_rejected == 2);
  for (int call = 0; call < 100; ++call) {
    CHECK(!specializer.Choose(slower).compile);
    CHECK(specializer.Choose(slower).variant == nullptr);
  }
}

// Calls with `key` until it may take another one's place, which it does at the last call.
void Replace(Specializer* specializer, const Key& key) {
  for (int call = 1; call < 20; ++call) CHECK(!specializer->Choose(key).compile);
  CHECK(specializer->Choose(key).compile);
  specializer->Compiled(key, std::make_shared<int>(1));
}

void FailedCompilationIsARejection() {
  tf_opt::Statistics statistics;
  Specializer specializer(1, 16, &statistics);
  CHECK(specializer.Choose({1}).compile);
  specializer.Compiled({1}, nullptr);
  CHECK(statistics.specialized_rejected == 1);
  CHECK(!specializer.Choose({1}).compile);
}

void EvictsTheLeastRecentlyUsed() {
  tf_opt::Statistics statistics;
  Specializer specializer(1, 2, &statistics);
  for (int64_t shape = 1; shape <= 2; ++shape) {
    Compile(&specializer, {shape}, 1);
    Measure(&specializer, {shape}, 0.5);
  }
  CHECK(specializer.Choose({1}).variant != nullptr);  // Now 2 is the older one.
  Replace(&specializer, {3});
  CHECK(statistics.specialized_evicted == 1);
  CHECK(specializer.Choose({1}).variant != nullptr);
  Measure(&specializer, {3}, 0.5);
  Replace(&specializer, {2});  // Starts again, in the place of 1.
  CHECK(statistics.specialized_evicted == 2);
  CHECK(specializer.Choose({3}).variant != nullptr);
}

void MoreShapesThanPlacesDoNotTakeTurns() {
  tf_opt::Statistics statistics;
  Specializer specializer(1, 2, &statistics);
  int compilations = 0;
  for (int round = 0; round < 100; ++round) {
    for (int64_t shape = 0; shape < 10; ++shape) {
      const Specializer::Choice choice = specializer.Choose({shape});
      if (choice.compile) {
        ++compilations;
        specializer.Compiled({shape}, std::make_shared<int>(1));
      }
      if (choice.measure)
        specializer.Measured({shape}, choice.variant != nullptr, choice.variant ? 0.5 : 1.0);
    }
  }
  CHECK(compilations == 2);
  CHECK(statistics.specialized_kept == 2);
}

void AShapeInMeasurementThatComesNoMoreGoes() {
  tf_opt::Statistics statistics;
  Specializer specializer(1, 1, &statistics);
  Compile(&specializer, {1}, 1);
  CHECK(specializer.Choose({1}).measure);
  Replace(&specializer, {2});
  CHECK(statistics.specialized_evicted == 1);
  specializer.Measured({1}, true, 0.5);  // Of a call that was under way: nobody asks any more.
  Measure(&specializer, {2}, 0.5);
  CHECK(specializer.Choose({2}).variant != nullptr);
}

void ShapesInWorkKeepTheirPlaces() {
  tf_opt::Statistics statistics;
  Specializer specializer(1, 1, &statistics);
  CHECK(specializer.Choose({1}).compile);
  for (int call = 0; call < 100; ++call) CHECK(!specializer.Choose({2}).compile);
  CHECK(statistics.specialized_evicted == 0);
  specializer.Compiled({1}, nullptr);
  CHECK(specializer.Choose({2}).compile);  // The failed one has left its place.
}

void ManyShapesAreForgottenButNotThoseInWork() {
  tf_opt::Statistics statistics;
  Specializer specializer(2, 1, &statistics);
  CHECK(!specializer.Choose({-1}).compile);
  CHECK(specializer.Choose({-1}).compile);
  for (int64_t shape = 0; shape < 20000; ++shape) CHECK(!specializer.Choose({shape}).compile);
  specializer.Compiled({-1}, std::make_shared<int>(1));
  Measure(&specializer, {-1}, 0.5);
  CHECK(specializer.Choose({-1}).variant != nullptr);
}

void NeverWhereNotAskedFor() {
  tf_opt::Statistics statistics;
  CHECK(!Specializer(0, 16, &statistics).enabled());
  CHECK(!Specializer(5, 0, &statistics).enabled());
}

void AskedShapesSkipTheCounting() {
  tf_opt::Statistics statistics;
  Specializer specializer(0, 2, &statistics);
  CHECK(!specializer.enabled());
  CHECK(specializer.Ask({1}));
  CHECK(specializer.enabled());
  CHECK(!specializer.Ask({1}));  // Once.
  specializer.Compiled({1}, std::make_shared<int>(1));
  Measure(&specializer, {1}, 0.5);
  CHECK(statistics.specialized_kept == 1);
  CHECK(specializer.Choose({1}).variant != nullptr);
  CHECK(specializer.Ask({2}));
  specializer.Compiled({2}, std::make_shared<int>(1));
  Measure(&specializer, {2}, 1.5);  // Asked for, but slower.
  CHECK(specializer.Choose({2}).variant == nullptr);
  CHECK(statistics.specialized_rejected == 1);
  // No other shape is counted.
  for (int call = 0; call < 1000; ++call) CHECK(!specializer.Choose({3}).compile);
}

void AskedShapesAreBoundedAndMayBeEvicted() {
  tf_opt::Statistics statistics;
  Specializer specializer(1, 1, &statistics);
  CHECK(specializer.Ask({1}));
  CHECK(!specializer.Ask({2}));  // No place while the first one is in work.
  specializer.Compiled({1}, std::make_shared<int>(1));
  Measure(&specializer, {1}, 0.5);
  Replace(&specializer, {3});
  CHECK(statistics.specialized_evicted == 1);
}

int main() {
  KeepsTheFasterAndRemembersTheRejected();
  FailedCompilationIsARejection();
  EvictsTheLeastRecentlyUsed();
  MoreShapesThanPlacesDoNotTakeTurns();
  AShapeInMeasurementThatComesNoMoreGoes();
  ShapesInWorkKeepTheirPlaces();
  ManyShapesAreForgottenButNotThoseInWork();
  NeverWhereNotAskedFor();
  AskedShapesSkipTheCounting();
  AskedShapesAreBoundedAndMayBeEvicted();
}

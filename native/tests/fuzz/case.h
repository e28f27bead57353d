// One call of one operation: described by its sizes, options and tensors, drawn from choices, corrupted on purpose,
// made, and checked.
//
// A description (operations.cpp) draws every field of the args struct and says what the header says of it.  Any of
// those draws may be turned into a fault: then the case knows that the call must be refused, and which argument the
// refusal names.  A case without faults must succeed.  So each call is checked against what the header promises, and no
// call is made whose metadata lies about memory unless the metadata alone must give the lie away: tensors that do not
// fit into memory have no address.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "choices.h"
#include "memory.h"
#include "saccade.h"

namespace fuzz {

class Case;

struct Operation {
  const char* name;
  size_t args_size = 0;
  void (*describe)(Case&, void* args) = nullptr;
  int32_t (*call)(saccade_context*, const void* args) = nullptr;
  int32_t (*workspace)(saccade_context*, const void* args, int64_t* bytes) = nullptr;  // null: needs none
  // In place of all that: functions that no args struct describes.
  void (*exercise)(Choices&, struct Tally&) = nullptr;
};

// All operations of the header.
extern const Operation kOperations[];
extern const int kOperationCount;

struct Tally {
  int64_t calls, succeeded, refused;
};

using Flags = std::vector<char>;
using Owners = std::vector<int32_t>;  // of every index of an axis: the unit that it belongs to, -1 for none

enum class Role { kInput, kOutput, kInOut };

// Counts and strides of a tensor in elements, outermost first; the innermost elements are contiguous.
struct Shape {
  std::array<int64_t, 3> count, stride;

  int64_t elements() const;  // 0 where a count is not above 0; at most INT64_MAX
  int64_t span() const;      // from the first element to the last, likewise
};

class Tensor {
 public:
  // Index i of the outermost (axis 0) or innermost (axis 2) dimension belongs to unit owners[i]: bad values of one unit
  // do not reach the results of others.
  Tensor& per(const Owners& owners, int axis = 0) {
    owners_ = owners, owner_axis_ = axis;
    return *this;
  }
  // An input that may hold anything where flagged ...
  Tensor& ignored(const Flags& rows) {
    ignored_ = rows;
    return *this;
  }
  // ... without an effect on the outputs that are marked by this.
  Tensor& sealed() {
    sealed_ = true;
    return *this;
  }
  // An output that is NaN where flagged, and nowhere else if the inputs and options are ordinary.
  Tensor& nan_where(const Flags& rows) {
    nan_where_ = rows;
    return *this;
  }
  // An output that may be NaN without NaN in an input.
  Tensor& may_be_nan() {
    may_be_nan_ = true;
    return *this;
  }
  // Rows that are not flagged keep their bytes.
  Tensor& touched(const Flags& rows) {
    touched_ = rows, all_touched_ = false;
    return *this;
  }
  // An integer output within [low, high].
  Tensor& bounded(int64_t low, int64_t high) {
    low_ = low, high_ = high;
    return *this;
  }
  // An output that may lie exactly on an input of the same layout.
  Tensor& in_place_of(const char* input) {
    in_place_of_ = input;
    return *this;
  }
  // It may be left out, though here it is given.
  Tensor& optional() {
    optional_ = true;
    return *this;
  }
  // One of several that may be left out, but not all: without memory the call is refused.
  Tensor& alternative() {
    optional_ = alternative_ = true;
    return *this;
  }
  bool present() const { return !absent_; }
  // Checks of overlap compare tensors of one group, and those of group 0 with all.
  Tensor& group(int group) {
    group_ = group;
    return *this;
  }
  // What an input holds; other inputs hold random numbers.
  template <class T>
  Tensor& holds(const std::vector<T>& values) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    content_.assign(bytes, bytes + values.size() * sizeof(T));
    return *this;
  }
  // An array that is copied when all addresses in it are known.
  Tensor& holds_addresses(const void* array) {
    addresses_ = array;
    return *this;
  }
  // Floating data without a sign.
  Tensor& positive() {
    positive_ = true;
    return *this;
  }
  // Numbers from 0 to 1, unless values are extreme.
  Tensor& fraction() {
    fraction_ = true;
    return positive();
  }

 private:
  friend class Case;

  std::string name_;
  saccade_address* field_ = nullptr;
  Role role_ = Role::kInput;
  int32_t dtype_ = SACCADE_F32;
  Shape shape_ = {};
  bool optional_ = false, alternative_ = false, absent_ = false;
  std::vector<uint8_t> content_;
  const void* addresses_ = nullptr;

  Owners owners_;
  int owner_axis_ = 0;
  Flags ignored_, nan_where_, touched_;
  bool all_touched_ = true, sealed_ = false, may_be_nan_ = false, positive_ = false, fraction_ = false;
  int64_t low_ = INT64_MIN, high_ = INT64_MAX;
  const char* in_place_of_ = nullptr;
  int group_ = 0;
  bool operand_ = true;  // may take part in overlaps

  enum class Fault { kNone, kNull, kMisaligned, kWrapped } fault_ = Fault::kNone;
  std::unique_ptr<Memory> memory_;
  std::vector<uint8_t> initial_;  // the data before a call
};

class Case {
 public:
  Case(const Operation& operation, Choices& choices, Tally& tally);

  // Draws the case, makes its calls, checks them.
  void run();

  // ------------------------------------------------------------------------------------------- for descriptions

  static constexpr int64_t kMaxRows = INT32_MAX;

  Choices& choices() { return choices_; }
  bool maybe() { return choices_.one_in(2); }
  bool usually() { return !choices_.one_in(4); }

  // A size within [minimum, maximum], ordinarily of at most `usual`.
  int64_t size(const char* name, int64_t& field, int64_t minimum = 0, int64_t maximum = kMaxRows,
               int64_t usual = 50000);
  // A number of sequences that can share `rows`.
  int64_t sequences(const char* name, int64_t& field, int64_t rows);
  // An option: 0 .. count-1.
  void choice(const char* name, int32_t& field, int32_t count);
  void precision(int32_t& field);  // of products: the CPU has f32 only
  void number(const char* name, float& field, std::initializer_list<float> good, std::initializer_list<float> bad);
  void integer(const char* name, int64_t& field, std::initializer_list<int64_t> good,
               std::initializer_list<int64_t> bad);
  void dtype(const char* name, int32_t& field, std::initializer_list<int32_t> good);

  // Whether to put a fault here.
  bool fault();
  // The call must be refused; the refusal names `argument` ("": any).
  void refused(const std::string& argument) { refusals_.push_back({SACCADE_INVALID_ARGUMENT, argument}); }
  bool sound() const { return refusals_.empty(); }

  static Shape line(int64_t n) { return {{n, 1, 1}, {1, 1, 1}}; }
  static Shape table(int64_t rows, int64_t width) { return {{rows, 1, width}, {width, width, 1}}; }
  Shape table(int64_t rows, int64_t width, const char* stride_name, int64_t& stride);
  Shape heads(int64_t rows, int64_t heads, int64_t dim, const char* row_name, int64_t& row_stride,
              const char* head_name, int64_t& head_stride);

  Tensor& input(const std::string& name, saccade_address& field, int32_t dtype, const Shape& shape);
  Tensor& output(const std::string& name, saccade_address& field, int32_t dtype, const Shape& shape);
  Tensor& inout(const std::string& name, saccade_address& field, int32_t dtype, const Shape& shape);
  Tensor& optional_input(const char* name, saccade_address& field, int32_t dtype, const Shape& shape);
  Tensor& optional_output(const char* name, saccade_address& field, int32_t dtype, const Shape& shape);
  // Offsets [count+1] from 0, non-decreasing, to `rows`; or at most to `rows`, where `open`.
  std::vector<int64_t> offsets(const char* name, saccade_address& field, int64_t count, int64_t rows,
                               int32_t dtype = SACCADE_I32, bool open = false);
  // Indices into [0, range), some outside; `special` occurs as well.
  std::vector<int32_t> indices(int64_t count, int64_t range, int32_t special);
  std::vector<uint8_t> mask(int64_t count);

  // A host struct that another points to, in storage() of one word more than it.
  void nested(const char* name, void* pointer, uint64_t* words, uint64_t size);

  void workspace(saccade_address& field) { workspace_field_ = &field; }
  void needs_gemm() { needs_gemm_ = true; }
  // Number of units that isolate their bad values from each other.
  void units(int64_t count) { units_ = count; }
  // Results may be NaN without NaN in an input.
  void extreme() { extreme_ = true; }
  Tensor& tensor(const char* name);
  // Zeroed memory that lives as long as the case.
  template <class T>
  T* storage(int64_t count, int64_t more_words = 0) {
    storage_.emplace_back(static_cast<size_t>(count) * sizeof(T) / 8 + static_cast<size_t>(more_words));
    return reinterpret_cast<T*>(storage_.back().data());
  }

  static constexpr size_t kMostArgs = 1024;
  // Loops of a description go no further.
  static constexpr int64_t kMost = 1 << 17;
  static int64_t real(int64_t size) { return size < 0 ? 0 : size > kMost ? 0 : size; }
  static int64_t twice(int64_t size) { return size > INT64_MAX / 2 ? INT64_MAX : size < 0 ? size : 2 * size; }
  static Owners every(int64_t count);                                            // each index its own unit
  static Owners by_sequence(const std::vector<int64_t>& offsets, int64_t rows);  // each row its sequence

 private:
  void note(const std::string& name, double value) { drawn_.emplace_back(name, value); }
  int64_t draw_size(const char* name, int64_t& field, int64_t minimum, int64_t maximum, int64_t usual);

  struct Refusal {
    int32_t status;
    std::string argument;
  };
  using Results = std::vector<std::vector<uint8_t>>;
  // Elements to compare: (tensor, index on its axis of owners).
  using Selected = std::function<bool(const Tensor&, int64_t)>;

  Tensor& add(const std::string& name, saccade_address& field, int32_t dtype, const Shape& shape, Role role);
  void fill(Tensor& tensor);
  void allocate();
  static bool columns_of_one(const Tensor& tensor, const Tensor& other, uint64_t shift);
  void corrupt_addresses();
  void corrupt_struct();
  void corrupt_workspace();

  template <class F>
  int32_t with_args(const F& call) const;
  void reset();
  void query();
  int32_t call();
  void check_message(int32_t status);
  void check_refusal(int32_t status);
  void check_outputs();
  void check_unchanged(const Tensor& tensor, const char* what);
  void succeed(const char* what);

  Results results() const;
  void compare(const Results& expected, const char* what, const Selected& selected);
  void try_other_threads(const Results& expected);
  void try_other_instruction_set(const Results& expected);
  void try_isolation(const Results& expected);
  void try_ignored(const Results& expected);
  void try_in_place(const Results& expected);
  void try_other_struct(const Results& expected);

  [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));

  const Operation& operation_;
  Choices& choices_;
  Tally& tally_;
  Random random_;

  alignas(8) std::array<unsigned char, kMostArgs> args_ = {};
  uint64_t struct_size_;
  bool newer_option_ = false;  // set behind the struct
  std::deque<Tensor> tensors_;
  std::deque<std::vector<uint64_t>> storage_;
  std::vector<std::pair<std::string, double>> drawn_;  // sizes and options, for reports
  std::vector<Refusal> refusals_;
  saccade_address* workspace_field_ = nullptr;
  std::unique_ptr<Memory> workspace_;
  bool null_context_ = false, null_args_ = false, no_gemm_ = false, needs_gemm_ = false;
  bool pure_ = true;  // inputs are as they were drawn
  int64_t units_ = 0;

  int fault_rate_;  // of 256 draws
  int big_size_;    // the draw of a size that is big
  int size_draws_ = 0;
  bool ordinary_;  // data without NaN, infinities and extremes
  bool extreme_ = false;
  saccade_context* context_ = nullptr;
  int isa_ = 0, threads_ = 1;
};

}  // namespace fuzz

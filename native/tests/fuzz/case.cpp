#include "case.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <limits>

namespace fuzz {
namespace {

constexpr int64_t kMostBytes = int64_t{64} << 20;  // of one tensor; a larger one has no address
constexpr int kMostThreads = 4;
constexpr int64_t kMostElements = int64_t{1} << 60;  // that the library counts
constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

int64_t size_of(int32_t dtype) {
  switch (dtype) {
    case SACCADE_BF16:
    case SACCADE_F16:
      return 2;
    case SACCADE_F64:
    case SACCADE_I64:
      return 8;
    case SACCADE_U8:
      return 1;
    default:
      return 4;
  }
}

bool floating(int32_t dtype) { return dtype >= SACCADE_F32 && dtype <= SACCADE_F64; }

// What outputs hold before a call: NaN that no arithmetic gives (signalling), numbers that no result is.
uint64_t poison_of(int32_t dtype) {
  switch (dtype) {
    case SACCADE_BF16:
      return 0x7fa5;
    case SACCADE_F16:
      return 0x7da5;
    case SACCADE_F64:
    case SACCADE_I64:
      return 0x7ff4a5a5a5a5a5a5u;
    case SACCADE_U8:
      return 0xa5;
    default:
      return 0x7fa5a5a5;
  }
}

bool is_poison(const uint8_t* element, int32_t dtype) {
  const uint64_t poison = poison_of(dtype);
  return !std::memcmp(element, &poison, static_cast<size_t>(size_of(dtype)));
}

bool is_nan(const uint8_t* element, int32_t dtype) {
  uint64_t bits = 0;
  std::memcpy(&bits, element, static_cast<size_t>(size_of(dtype)));
  switch (dtype) {
    case SACCADE_F32:
      return (bits & 0x7fffffffu) > 0x7f800000u;
    case SACCADE_BF16:
      return (bits & 0x7fffu) > 0x7f80u;
    case SACCADE_F16:
      return (bits & 0x7fffu) > 0x7c00u;
    case SACCADE_F64:
      return (bits & INT64_MAX) > 0x7ff0000000000000u;
    default:
      return false;
  }
}

std::string hex(const uint8_t* element, int64_t size) {
  uint64_t bits = 0;
  std::memcpy(&bits, element, static_cast<size_t>(size));
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(bits));
  return text;
}

// Truncated: inputs of a test need no rounding.
void store(uint8_t* element, int32_t dtype, double x) {
  const float single = static_cast<float>(x);
  uint32_t bits;
  std::memcpy(&bits, &single, 4);
  switch (dtype) {
    case SACCADE_F32:
      std::memcpy(element, &single, 4);
      break;
    case SACCADE_F64:
      std::memcpy(element, &x, 8);
      break;
    case SACCADE_BF16: {
      const uint16_t half = static_cast<uint16_t>(bits >> 16);
      std::memcpy(element, &half, 2);
      break;
    }
    default: {
      const uint32_t magnitude = bits & 0x7fffffffu;
      uint32_t half = magnitude > 0x7f800000u    ? 0x7e00u
                      : magnitude >= 0x47800000u ? 0x7c00u
                      : magnitude < 0x38800000u  ? 0u
                                                 : (magnitude - 0x38000000u) >> 13;
      half |= bits >> 16 & 0x8000u;
      std::memcpy(element, &half, 2);
    }
  }
}

double special(Random& random) {
  return random.of<double>(
      {kNan, kInfinity, -kInfinity, 3.4e38, -3.4e38, 1e30, -1e30, 1e-40, -1e-40, 1e-30, 0.0, -0.0});
}

// Of numbers that are not negative; INT64_MAX where the result does not fit.
int64_t times(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

int64_t plus(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

// ------------------------------------------------------------------------------------------------- contexts

void plain_sgemm(int32_t, int32_t trans_a, int32_t trans_b, int32_t m, int32_t n, int32_t k, float alpha,
                 const float* a, int32_t lda, const float* b, int32_t ldb, float beta, float* c, int32_t ldc) {
  constexpr int32_t kTrans = 112;
  const auto at = [](const float* x, int32_t ld, bool trans, int64_t i, int64_t j) {
    return trans ? x[j * ld + i] : x[i * ld + j];
  };
  for (int32_t i = 0; i < m; ++i)
    for (int32_t j = 0; j < n; ++j) {
      float sum = 0.0f;
      for (int32_t l = 0; l < k; ++l) sum += at(a, lda, trans_a == kTrans, i, l) * at(b, ldb, trans_b == kTrans, l, j);
      float& out = c[int64_t{i} * ldc + j];
      out = alpha * sum + (beta == 0.0f ? 0.0f : beta * out);
    }
}

const saccade_address kProvider = reinterpret_cast<saccade_address>(&plain_sgemm);

// One context for each instruction set of this machine and number of threads, made when first used.
class Contexts {
 public:
  Contexts() {
    for (const char* name : {"baseline", "avx2", "avx512"}) {
      names_.push_back(name);
      if (saccade_context* context = create(name, 1)) {
        contexts_.emplace_back();
        contexts_.back()[0] = context;
      } else {
        names_.pop_back();
      }
    }
    if (contexts_.empty()) std::abort();
  }

  ~Contexts() {
    for (auto& of_isa : contexts_)
      for (saccade_context* context : of_isa) saccade_context_destroy(context);
  }

  int instruction_sets() const { return static_cast<int>(names_.size()); }

  saccade_context* get(int isa, int threads) {
    saccade_context*& context = contexts_[static_cast<size_t>(isa)][static_cast<size_t>(threads - 1)];
    if (!context) context = create(names_[static_cast<size_t>(isa)], threads);
    if (!context) std::abort();
    return context;
  }

 private:
  static saccade_context* create(const char* isa, int threads) {
    saccade_context_args args = {};
    args.struct_size = sizeof args;
    args.threads = threads;
    args.instruction_set = isa;
    saccade_context* context = nullptr;
    if (saccade_context_create(&args, &context, nullptr, 0) == SACCADE_OK) saccade_context_set_gemm(context, kProvider);
    return context;
  }

  std::vector<const char*> names_;
  std::vector<std::array<saccade_context*, kMostThreads>> contexts_;
};

Contexts& contexts() {
  static Contexts all;
  return all;
}

// Takes a context's provider of matrix products away for a while.
class WithoutGemm {
 public:
  explicit WithoutGemm(saccade_context* context) : context_(context) { saccade_context_set_gemm(context_, 0); }
  ~WithoutGemm() { saccade_context_set_gemm(context_, kProvider); }
  WithoutGemm(const WithoutGemm&) = delete;
  WithoutGemm& operator=(const WithoutGemm&) = delete;

 private:
  saccade_context* const context_;
};

// A call of `f` for every row of innermost elements: its byte offset, and the outermost index.
template <class F>
void for_rows(const Shape& shape, int64_t element, const F& f) {
  if (shape.elements() == 0) return;
  for (int64_t i = 0; i < shape.count[0]; ++i)
    for (int64_t j = 0; j < shape.count[1]; ++j) f((i * shape.stride[0] + j * shape.stride[1]) * element, i);
}

// A call of `f` for every element: its byte offset, and its index on the axis.
template <class F>
void for_elements(const Shape& shape, int64_t element, int axis, const F& f) {
  for_rows(shape, element, [&](int64_t offset, int64_t i) {
    for (int64_t l = 0; l < shape.count[2]; ++l) f(offset + l * element, axis == 0 ? i : l);
  });
}

}  // namespace

int64_t Shape::elements() const {
  int64_t product = 1;
  for (int64_t n : count) product = times(product, std::max<int64_t>(n, 0));
  return product;
}

int64_t Shape::span() const {
  if (elements() == 0) return 0;
  int64_t last = 0;
  for (size_t d = 0; d < 3; ++d) last = plus(last, times(count[d] - 1, stride[d]));
  return plus(last, 1);
}

// ---------------------------------------------------------------------------------------------- description

Case::Case(const Operation& operation, Choices& choices, Tally& tally)
    : operation_(operation), choices_(choices), tally_(tally), random_(0), struct_size_(operation.args_size) {
  fault_rate_ = choices.of({0, 0, 0, 4, 10, 30});
  big_size_ = choices.one_in(24) ? static_cast<int>(choices.below(4)) : -1;
  ordinary_ = choices.below(2) == 0;
  random_ = Random(choices.bytes(8));
}

bool Case::fault() { return fault_rate_ > 0 && choices_.below(256) >= 256 - fault_rate_; }

int64_t Case::draw_size(const char* name, int64_t& field, int64_t minimum, int64_t maximum, int64_t usual) {
  const int draw = size_draws_++;
  if (fault()) {
    field = choices_.of<int64_t>({-1, minimum - 1, INT64_MIN, INT32_MIN, maximum,
                                  maximum == INT64_MAX ? maximum : maximum + 1, (int64_t{1} << 32) + 3, INT32_MAX,
                                  int64_t{1} << 31, int64_t{1} << 60, INT64_MAX});
    if (field < minimum || field > maximum) refused(name);
    return field;
  }
  if (draw == big_size_) {
    field = choices_.of<int64_t>({4096, 4095, 4097, 300, 1025, 8193, 16383, 16385, 32769, 50000});
  } else if (big_size_ >= 0) {
    field = choices_.between(minimum, minimum + 3);
  } else {
    switch (choices_.below(8)) {
      case 0:
        field = choices_.between(minimum, minimum + 1);
        break;
      case 1:
        field = choices_.of<int64_t>({16, 15, 17, 31, 32, 33, 63, 64, 65});
        break;
      default:
        field = choices_.between(minimum, 12 < usual ? 12 : usual);
    }
  }
  return field = std::max(minimum, std::min({field, maximum, usual}));
}

int64_t Case::size(const char* name, int64_t& field, int64_t minimum, int64_t maximum, int64_t usual) {
  draw_size(name, field, minimum, maximum, usual);
  note(name, static_cast<double>(field));
  return field;
}

int64_t Case::sequences(const char* name, int64_t& field, int64_t rows) {
  draw_size(name, field, 0, kMaxRows, 3000);
  if (field == 0 && rows > 0) field = 1;
  note(name, static_cast<double>(field));
  return field;
}

void Case::choice(const char* name, int32_t& field, int32_t count) {
  field = static_cast<int32_t>(choices_.below(count));
  if (fault()) {
    field = choices_.of({count, -1, INT32_MIN, INT32_MAX, 1 << 16});
    refused(name);
  }
  note(name, field);
}

void Case::precision(int32_t& field) {
  field = SACCADE_PRECISION_F32;
  if (fault()) {
    field = choices_.of(
        {SACCADE_PRECISION_TF32 + 0, SACCADE_PRECISION_BF16 + 0, SACCADE_PRECISION_BF16 + 1, -1, INT32_MIN, INT32_MAX});
    const bool known = field == SACCADE_PRECISION_TF32 || field == SACCADE_PRECISION_BF16;
    refusals_.push_back({known ? SACCADE_UNSUPPORTED : SACCADE_INVALID_ARGUMENT, "precision"});
  }
  note("precision", field);
}

void Case::number(const char* name, float& field, std::initializer_list<float> good, std::initializer_list<float> bad) {
  field = choices_.of(good);
  if (fault()) {
    const int64_t which = choices_.below(static_cast<int64_t>(bad.size()) + 3);
    field = which == 0 ? NAN : which == 1 ? INFINITY : which == 2 ? -INFINITY : bad.begin()[which - 3];
    refused(name);
  }
  note(name, static_cast<double>(field));
}

void Case::integer(const char* name, int64_t& field, std::initializer_list<int64_t> good,
                   std::initializer_list<int64_t> bad) {
  field = choices_.of(good);
  if (fault()) {
    field = choices_.of(bad);
    refused(name);
  }
  note(name, static_cast<double>(field));
}

void Case::dtype(const char* name, int32_t& field, std::initializer_list<int32_t> good) {
  field = choices_.of(good);
  if (fault()) {
    const int32_t other = choices_.of({-1, 7, INT32_MIN, INT32_MAX, 0, 1, 2, 3, 4, 5, 6});
    if (std::find(good.begin(), good.end(), other) == good.end()) {
      field = other;
      refused(name);
    }
  }
  note(name, field);
}

Shape Case::table(int64_t rows, int64_t width, const char* stride_name, int64_t& stride) {
  stride = 0;
  Shape shape = table(rows, width);
  if (width < 0 || width > kMost || rows > kMost) return shape;
  if (maybe()) stride = width + (maybe() ? choices_.between(1, 20) : 0);
  if (fault()) {
    const int64_t bad = choices_.of<int64_t>({width - 1, 1, -1, -width, INT64_MIN, INT64_MAX, int64_t{1} << 60});
    // A huge stride of a single row is no lie.
    if (bad != 0 && (bad < width || times(bad, std::max<int64_t>(rows, 0)) > kMostElements)) {
      stride = bad;
      refused(stride_name);
      return shape;
    }
  }
  if (stride > 0) shape.stride[0] = shape.stride[1] = stride;
  return shape;
}

Shape Case::heads(int64_t rows, int64_t heads, int64_t dim, const char* row_name, int64_t& row_stride,
                  const char* head_name, int64_t& head_stride) {
  row_stride = head_stride = 0;
  Shape shape = {{rows, heads, dim}, {0, dim, 1}};
  const int64_t dense = heads < 1 || dim < 1 ? 0 : times(heads, dim);
  shape.stride[0] = dense;
  if (dense == 0 || dense > kMost) return shape;
  if (maybe()) head_stride = dim + (maybe() ? choices_.between(1, 20) : 0);
  if (fault() && dim > 1) {
    head_stride = choices_.of<int64_t>({dim - 1, 1, -1, INT64_MIN});
    refused(head_name);
    return shape;
  }
  if (head_stride > 0) shape.stride[1] = head_stride;
  const int64_t width = (heads - 1) * shape.stride[1] + dim;
  shape.stride[0] = shape.stride[1] == dim ? heads * dim : width;
  if (maybe()) row_stride = width + (maybe() ? choices_.between(1, 20) : 0);
  if (fault()) {
    const int64_t bad = choices_.of<int64_t>({width - 1, 1, -1, INT64_MIN, INT64_MAX});
    if (bad != 0 && (bad < width || times(bad, std::max<int64_t>(rows, 0)) > kMostElements)) {
      row_stride = bad;
      refused(row_name);
      return shape;
    }
  }
  if (row_stride > 0) shape.stride[0] = row_stride;
  return shape;
}

Tensor& Case::add(const std::string& name, saccade_address& field, int32_t dtype, const Shape& shape, Role role) {
  Tensor& tensor = tensors_.emplace_back();
  tensor.name_ = name;
  tensor.field_ = &field;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  tensor.role_ = role;
  if (fault()) tensor.fault_ = choices_.of({Tensor::Fault::kNull, Tensor::Fault::kMisaligned, Tensor::Fault::kWrapped});
  return tensor;
}

Tensor& Case::tensor(const char* name) {
  for (Tensor& tensor : tensors_)
    if (tensor.name_ == name) return tensor;
  std::abort();
}

Tensor& Case::input(const std::string& name, saccade_address& field, int32_t dtype, const Shape& shape) {
  return add(name, field, dtype, shape, Role::kInput);
}

Tensor& Case::output(const std::string& name, saccade_address& field, int32_t dtype, const Shape& shape) {
  return add(name, field, dtype, shape, Role::kOutput);
}

Tensor& Case::inout(const std::string& name, saccade_address& field, int32_t dtype, const Shape& shape) {
  return add(name, field, dtype, shape, Role::kInOut);
}

Tensor& Case::optional_input(const char* name, saccade_address& field, int32_t dtype, const Shape& shape) {
  Tensor& tensor = input(name, field, dtype, shape);
  tensor.optional_ = true;
  tensor.absent_ = maybe();
  return tensor;
}

Tensor& Case::optional_output(const char* name, saccade_address& field, int32_t dtype, const Shape& shape) {
  Tensor& tensor = output(name, field, dtype, shape);
  tensor.optional_ = true;
  tensor.absent_ = !usually();
  return tensor;
}

void Case::nested(const char* name, void* pointer, uint64_t* words, uint64_t size) {
  words[0] = size;
  Tensor& tensor = tensors_.emplace_back();
  tensor.name_ = name;
  tensor.field_ = static_cast<saccade_address*>(pointer);
  tensor.dtype_ = SACCADE_I64;
  tensor.shape_ = line(static_cast<int64_t>(size) / 8);
  tensor.addresses_ = words;
  tensor.operand_ = false;
  if (!fault()) return;
  switch (choices_.below(4)) {
    case 0:
      tensor.fault_ = Tensor::Fault::kNull;
      break;
    case 1:
      words[0] = choices_.of<uint64_t>({0, 4, 7, size - 1, size + 4, UINT64_MAX});
      refused("struct_size");
      break;
    default:  // a newer struct, with its option off or set
      words[0] += 8;
      tensor.shape_ = line(static_cast<int64_t>(size) / 8 + 1);
      words[size / 8] = choices_.below(2) ? 1 : 0;
      if (words[size / 8]) refusals_.push_back({SACCADE_UNSUPPORTED, "struct_size"});
  }
}

std::vector<int64_t> Case::offsets(const char* name, saccade_address& field, int64_t count, int64_t rows, int32_t dtype,
                                   bool open) {
  const int64_t sequences = real(count), end = open ? random_.below(real(rows) + 1) : real(rows);
  std::vector<int64_t> good(static_cast<size_t>(sequences) + 1);
  for (int64_t s = 1; s < sequences; ++s) good[static_cast<size_t>(s)] = random_.below(end + 1);
  std::sort(good.begin(), good.end());
  if (sequences > 0) good.back() = end;

  std::vector<int64_t> given = good;
  if (fault()) {
    int64_t& any = given[static_cast<size_t>(random_.below(sequences + 1))];
    switch (choices_.below(4)) {
      case 0:
        given[0] = choices_.of<int64_t>({1, -1, INT32_MAX, INT32_MIN});
        break;
      case 1:
        any = choices_.of<int64_t>({INT32_MIN, INT32_MAX, -1});
        break;
      case 2:
        any += choices_.of<int64_t>({1, -1, 1000});
        break;
      default:
        given.back() += choices_.of<int64_t>({1, -1, INT32_MIN / 2, INT32_MAX / 2});
    }
  }
  const bool valid = given[0] == 0 && std::is_sorted(given.begin(), given.end()) &&
                     (open ? given.back() <= rows : given.back() == rows);
  if (!valid) refused(name);
  Tensor& tensor = input(name, field, dtype, line(count < 0 ? 0 : count < INT64_MAX ? count + 1 : count));
  if (dtype == SACCADE_I32)
    tensor.holds(std::vector<int32_t>(given.begin(), given.end()));
  else
    tensor.holds(given);
  return valid && rows == real(rows) ? given : good;
}

std::vector<int32_t> Case::indices(int64_t count, int64_t range, int32_t special_index) {
  const int32_t end = static_cast<int32_t>(std::max<int64_t>(0, std::min<int64_t>(range, INT32_MAX)));
  std::vector<int32_t> values(static_cast<size_t>(real(count)));
  const int bad_in = static_cast<int>(choices_.of<int64_t>({INT32_MAX, 16, 4}));
  const int special_in = static_cast<int>(choices_.of<int64_t>({4, INT32_MAX, 2}));
  for (int32_t& value : values) {
    if (random_.below(special_in) == 0)
      value = special_index;
    else if (end == 0 || random_.below(bad_in) == 0)
      value = random_.of<int32_t>({-1, end, end == INT32_MAX ? end : end + 1, INT32_MIN, INT32_MAX, -2, -100});
    else
      value = static_cast<int32_t>(random_.below(end));
  }
  return values;
}

std::vector<uint8_t> Case::mask(int64_t count) {
  std::vector<uint8_t> values(static_cast<size_t>(real(count)));
  const int64_t kind = choices_.below(3);
  for (uint8_t& value : values)
    value = kind == 2 ? 0 : random_.below(3) == 0 ? 0 : kind == 0 ? 1 : static_cast<uint8_t>(1 + random_.below(255));
  return values;
}

Owners Case::every(int64_t count) {
  Owners owners(static_cast<size_t>(real(count)));
  for (size_t i = 0; i < owners.size(); ++i) owners[i] = static_cast<int32_t>(i);
  return owners;
}

Owners Case::by_sequence(const std::vector<int64_t>& offsets, int64_t rows) {
  Owners owners(static_cast<size_t>(real(rows)), -1);
  for (size_t s = 0; s + 1 < offsets.size(); ++s)
    for (int64_t r = offsets[s]; r < std::min(offsets[s + 1], real(rows)); ++r)
      owners[static_cast<size_t>(r)] = static_cast<int32_t>(s);
  return owners;
}

// --------------------------------------------------------------------------------------------------- memory

void Case::fill(Tensor& tensor) {
  const int64_t element = size_of(tensor.dtype_);
  std::vector<uint8_t>& data = tensor.initial_;
  if (tensor.role_ == Role::kOutput) {
    const uint64_t poison = poison_of(tensor.dtype_);
    for (size_t i = 0; i < data.size(); i += static_cast<size_t>(element))
      std::memcpy(&data[i], &poison, static_cast<size_t>(element));
    return;
  }
  std::fill(data.begin(), data.end(), uint8_t{0xff});  // of padding: NaN
  if (!tensor.content_.empty() && !data.empty())
    std::memcpy(data.data(), tensor.content_.data(), std::min(data.size(), tensor.content_.size()));
  if (!floating(tensor.dtype_) || !tensor.content_.empty()) return;
  // 0: numbers; others only where the case is not ordinary: some special, all special, all equal.
  const int64_t kind = ordinary_ ? 0 : choices_.of({0, 0, 1, 1, 2, 3});
  const double scale = choices_.of({1.0, 10.0, 1e-3});
  const double equal = kind == 3 ? special(random_) : 0.0;
  for_elements(tensor.shape_, element, 0, [&](int64_t offset, int64_t) {
    double x = scale * random_.normal();
    if (tensor.fraction_) x = std::min(std::fabs(x), 1.0);
    if (kind == 2 || (kind == 1 && random_.below(16) == 0)) x = special(random_);
    if (kind == 3) x = equal;
    store(&data[static_cast<size_t>(offset)], tensor.dtype_, tensor.positive_ ? std::fabs(x) : x);
  });
}

void Case::allocate() {
  for (Tensor& tensor : tensors_) {
    if (tensor.absent_) {
      *tensor.field_ = 0;
      continue;
    }
    const int64_t element = size_of(tensor.dtype_), span = tensor.shape_.span();
    if (span > kMostBytes / element) {
      *tensor.field_ = 0;
      if (!tensor.optional_ || tensor.alternative_) refused("");
      tensor.absent_ = true;
      continue;
    }
    const size_t bytes = static_cast<size_t>(span * element);
    tensor.memory_ = std::make_unique<Memory>(
        bytes, static_cast<size_t>(choices_.below(static_cast<int64_t>(Memory::kAlignment) / element) * element));
    tensor.initial_.resize(bytes);
    fill(tensor);
    saccade_address address = reinterpret_cast<saccade_address>(tensor.memory_->data());
    const auto& count = tensor.shape_.count;
    if (span == 0 && !tensor.optional_ && *std::min_element(count.begin(), count.end()) == 0 && maybe()) address = 0;
    switch (span > 0 ? tensor.fault_ : Tensor::Fault::kNone) {
      case Tensor::Fault::kNone:
        break;
      case Tensor::Fault::kNull:
        if (tensor.optional_) break;
        address = 0;
        refused(tensor.name_);
        break;
      case Tensor::Fault::kMisaligned:
        if (element == 1) break;
        address += static_cast<uint64_t>(choices_.between(1, element - 1));
        refused(tensor.name_);
        break;
      case Tensor::Fault::kWrapped:
        if (span < 2) break;
        address = 0 - static_cast<uint64_t>(span / 2 * element);
        refused(tensor.name_);
    }
    *tensor.field_ = address;
  }
}

// Whether the rows of a tensor `shift` bytes past another lie between those of the other.
bool Case::columns_of_one(const Tensor& tensor, const Tensor& other, uint64_t shift) {
  const auto bytes = [](const Tensor& t, int64_t elements) {
    return static_cast<uint64_t>(elements * size_of(t.dtype_));
  };
  const auto width = [&](const Tensor& t) {
    return bytes(t, (t.shape_.count[1] - 1) * t.shape_.stride[1] + t.shape_.count[2]);
  };
  const uint64_t stride = bytes(other, other.shape_.stride[0]), column = shift % stride;
  return bytes(tensor, tensor.shape_.stride[0]) == stride && width(other) <= column && column + width(tensor) <= stride;
}

// Lays an output on another tensor.
void Case::corrupt_addresses() {
  std::vector<Tensor*> all, outputs;
  for (Tensor& tensor : tensors_) {
    if (tensor.absent_ || tensor.initial_.empty() || !tensor.operand_) continue;
    all.push_back(&tensor);
    if (tensor.role_ != Role::kInput) outputs.push_back(&tensor);
  }
  if (outputs.empty()) return;
  Tensor& output = *outputs[static_cast<size_t>(choices_.below(static_cast<int64_t>(outputs.size())))];
  const Tensor& other = *all[static_cast<size_t>(choices_.below(static_cast<int64_t>(all.size())))];
  if (&output == &other || (output.group_ && other.group_ && output.group_ != other.group_)) return;
  const uint64_t element = static_cast<uint64_t>(size_of(output.dtype_)), begin = *other.field_;
  saccade_address address = begin + static_cast<uint64_t>(random_.below(static_cast<int64_t>(other.initial_.size())));
  if (maybe()) address = begin;
  address = (address + element - 1) / element * element;
  if (output.in_place_of_ && output.in_place_of_ == other.name_ && address == begin) address += element;
  if (address >= begin + other.initial_.size() || columns_of_one(output, other, address - begin)) return;
  *output.field_ = address;
  refused(other.role_ == Role::kInput ? output.name_ : "");
}

void Case::corrupt_struct() {
  switch (choices_.below(6)) {
    case 0:
      null_args_ = true;
      refused("args");
      break;
    case 1:
      null_context_ = true;
      refused("");
      break;
    case 2:
      struct_size_ = choices_.of<uint64_t>({0, 4, 7, (1u << 16) + 8, UINT64_MAX});
      refused("struct_size");
      break;
    case 3:
      struct_size_ -= static_cast<uint64_t>(choices_.between(1, 7));
      refused("struct_size");
      break;
    case 4:
      struct_size_ += 8;
      newer_option_ = true;
      refusals_.push_back({SACCADE_UNSUPPORTED, "struct_size"});
      break;
    default:
      if (!needs_gemm_) break;
      no_gemm_ = true;
      refusals_.push_back({SACCADE_UNSUPPORTED, "context"});
  }
}

// ---------------------------------------------------------------------------------------------------- calls

// Calls with the args struct in memory of exactly the size that it claims.
template <class F>
int32_t Case::with_args(const F& call) const {
  const uint64_t size = struct_size_ >= 8 && struct_size_ <= 2 * args_.size() ? struct_size_ : 8;
  Memory args(size, 0);
  std::memset(args.data(), 0, size);
  std::memcpy(args.data(), args_.data(), std::min<size_t>(size, operation_.args_size));
  std::memcpy(args.data(), &struct_size_, 8);
  if (newer_option_) args.data()[size - 1] = 1;
  args.forbid_guards();
  return call(null_context_ ? nullptr : context_, null_args_ ? nullptr : static_cast<const void*>(args.data()));
}

// Everything as it was drawn, and what lies between rows and tensors out of bounds.
void Case::reset() {
  for (Tensor& tensor : tensors_) {
    if (!tensor.memory_) continue;
    const Memory& memory = *tensor.memory_;
    memory.allow_all();
    if (tensor.addresses_) std::memcpy(tensor.initial_.data(), tensor.addresses_, tensor.initial_.size());
    if (!tensor.initial_.empty()) std::memcpy(tensor.memory_->data(), tensor.initial_.data(), tensor.initial_.size());
    int64_t end = 0;  // of the row before
    const int64_t element = size_of(tensor.dtype_);
    for_rows(tensor.shape_, element, [&](int64_t offset, int64_t) {
      if (offset > end) forbid(memory.data() + end, static_cast<size_t>(offset - end));
      end = offset + tensor.shape_.count[2] * element;
    });
    memory.forbid_guards();
  }
}

// Asks for the workspace, and gives exactly that much.
void Case::query() {
  if (!workspace_field_) return;
  reset();
  *workspace_field_ = 0;
  workspace_.reset();
  int64_t bytes = -1;
  const int32_t status = with_args(
      [&](saccade_context* context, const void* args) { return operation_.workspace(context, args, &bytes); });
  if (status != SACCADE_OK) {
    if (sound()) fail("the workspace query is refused");
    return check_refusal(status);
  }
  if (bytes < 0) fail("a workspace of %lld bytes", static_cast<long long>(bytes));
  if (bytes > kMostBytes) return refused("workspace");
  if (bytes == 0) return;
  workspace_ = std::make_unique<Memory>(static_cast<size_t>(bytes), 0);
  std::memset(workspace_->data(), 0xff, static_cast<size_t>(bytes));
  *workspace_field_ = reinterpret_cast<saccade_address>(workspace_->data());
}

void Case::corrupt_workspace() {
  if (!workspace_) return;
  saccade_address& address = *workspace_field_;
  const int64_t kind = choices_.below(4);
  if (kind == 0) {
    address = 0;
  } else if (kind == 1) {
    address += choices_.of<uint64_t>({1, 4, 8, 32});
  } else if (kind == 2) {
    if (workspace_->bytes() <= Memory::kAlignment) return;
    address = 0 - Memory::kAlignment;
  } else {  // on a tensor
    const Tensor& tensor = tensors_[static_cast<size_t>(choices_.below(static_cast<int64_t>(tensors_.size())))];
    if (!tensor.memory_ || tensor.group_ || !tensor.operand_) return;
    const saccade_address begin = *tensor.field_,
                          on = (begin + Memory::kAlignment - 1) / Memory::kAlignment * Memory::kAlignment;
    if (on >= begin + tensor.initial_.size()) return;
    address = on;
    return refused("");
  }
  refused("workspace");
}

int32_t Case::call() {
  reset();
  if (workspace_) workspace_->forbid_guards();
  const int32_t status = with_args(operation_.call);
  if (workspace_) {
    workspace_->allow_all();
    if (!workspace_->guards_hold()) fail("a write beside the workspace");
  }
  for (const Tensor& tensor : tensors_) {
    if (!tensor.memory_) continue;
    tensor.memory_->allow_all();
    if (!tensor.memory_->guards_hold()) fail("a write beside %s", tensor.name_.c_str());
  }
  ++tally_.calls;
  return status;
}

// --------------------------------------------------------------------------------------------------- checks

void Case::check_message(int32_t status) {
  if (status != SACCADE_INVALID_ARGUMENT && status != SACCADE_UNSUPPORTED) fail("status %d", status);
  const std::string message = saccade_error_message(context_), argument = saccade_error_argument(context_),
                    expected = saccade_error_expected(context_), actual = saccade_error_actual(context_);
  if (argument.empty() || expected.empty() || actual.empty()) fail("an error that does not say what is wrong");
  if (message != std::string(operation_.name) + ": " + argument + ": expected " + expected + ", got " + actual)
    fail("a message other than its parts");
}

void Case::check_refusal(int32_t status) {
  if (status == SACCADE_OK) fail("a wrong call succeeds");
  if (null_context_) {
    if (status != SACCADE_INVALID_ARGUMENT) fail("status %d for a null context", status);
    return;
  }
  check_message(status);
  const std::string argument = saccade_error_argument(context_), actual = saccade_error_actual(context_);
  // An overlap may be told of either side.
  for (const Refusal& refusal : refusals_)
    if (refusal.status == status &&
        (argument.find(refusal.argument) != std::string::npos || refusal.argument.find(argument) != std::string::npos ||
         actual.find(refusal.argument) != std::string::npos))
      return;
  fail("the refusal names another argument");
}

void Case::check_unchanged(const Tensor& tensor, const char* what) {
  if (!tensor.initial_.empty() && std::memcmp(tensor.memory_->data(), tensor.initial_.data(), tensor.initial_.size()))
    fail("%s changes %s", what, tensor.name_.c_str());
}

void Case::check_outputs() {
  for (const Tensor& tensor : tensors_) {
    if (!tensor.memory_) continue;
    if (tensor.role_ == Role::kInput) {
      check_unchanged(tensor, "the call");
      continue;
    }
    const char* name = tensor.name_.c_str();
    const uint8_t* data = tensor.memory_->data();
    const int64_t element = size_of(tensor.dtype_);
    int64_t end = 0;
    const auto keep = [&](int64_t begin, int64_t stop, const char* what) {
      if (stop > begin &&
          std::memcmp(data + begin, &tensor.initial_[static_cast<size_t>(begin)], static_cast<size_t>(stop - begin)))
        fail("%s of %s changed", what, name);
    };
    for_rows(tensor.shape_, element, [&](int64_t offset, int64_t row) {
      keep(end, offset, "padding");
      end = offset + tensor.shape_.count[2] * element;
      if (!tensor.all_touched_ && !tensor.touched_[static_cast<size_t>(row)]) keep(offset, end, "an untouched row");
    });
    for_elements(tensor.shape_, element, tensor.owner_axis_, [&](int64_t offset, int64_t index) {
      const size_t i = static_cast<size_t>(index);
      if (!tensor.all_touched_ && !tensor.touched_[i]) return;
      const uint8_t* value = data + offset;
      const auto at = static_cast<long long>(offset / element);
      if (tensor.role_ == Role::kOutput && is_poison(value, tensor.dtype_))
        fail("element %lld of %s is not written", at, name);
      if (tensor.dtype_ == SACCADE_I32 || tensor.dtype_ == SACCADE_U8) {
        int32_t x = 0;
        std::memcpy(&x, value, static_cast<size_t>(element));
        if (x < tensor.low_ || x > tensor.high_) fail("element %lld of %s is %d", at, name, x);
      }
      if (!floating(tensor.dtype_) || !pure_) return;
      const bool nan = is_nan(value, tensor.dtype_), must = !tensor.nan_where_.empty() && tensor.nan_where_[i];
      if (must && !nan) fail("element %lld of %s is not NaN", at, name);
      if (nan && !must && ordinary_ && !extreme_ && !tensor.may_be_nan_) fail("element %lld of %s is NaN", at, name);
    });
  }
}

void Case::succeed(const char* what) {
  query();
  const int32_t status = call();
  if (status != SACCADE_OK) fail("status %d %s", status, what);
  if (saccade_error_message(context_)[0]) fail("a message after success %s", what);
  check_outputs();
}

Case::Results Case::results() const {
  Results all;
  for (const Tensor& tensor : tensors_) {
    all.emplace_back();
    if (tensor.memory_ && tensor.role_ != Role::kInput)
      all.back().assign(tensor.memory_->data(), tensor.memory_->data() + tensor.initial_.size());
  }
  return all;
}

// The results must have the bits of `expected` where selected.
void Case::compare(const Results& expected, const char* what, const Selected& selected) {
  for (size_t t = 0; t < tensors_.size(); ++t) {
    const Tensor& tensor = tensors_[t];
    if (!tensor.memory_ || tensor.role_ == Role::kInput) continue;
    const int64_t element = size_of(tensor.dtype_);
    for_elements(tensor.shape_, element, tensor.owner_axis_, [&](int64_t offset, int64_t index) {
      if (selected && !selected(tensor, index)) return;
      const uint8_t *now = tensor.memory_->data() + offset, *before = &expected[t][static_cast<size_t>(offset)];
      if (std::memcmp(now, before, static_cast<size_t>(element)))
        fail("element %lld of %s is %s and not %s %s", static_cast<long long>(offset / element), tensor.name_.c_str(),
             hex(now, element).c_str(), hex(before, element).c_str(), what);
    });
  }
}

void Case::try_other_threads(const Results& expected) {
  threads_ = 1 + threads_ % kMostThreads;
  context_ = contexts().get(isa_, threads_);
  succeed("with other threads");
  compare(expected, "with other threads", nullptr);
}

// Instruction sets round differently, but they agree on what is not a number, unless values are extreme.
void Case::try_other_instruction_set(const Results& expected) {
  context_ = contexts().get((isa_ + 1) % contexts().instruction_sets(), threads_);
  succeed("with another instruction set");
  context_ = contexts().get(isa_, threads_);
  if (!ordinary_ || extreme_) return;
  for (size_t t = 0; t < tensors_.size(); ++t) {
    const Tensor& tensor = tensors_[t];
    if (!tensor.memory_ || tensor.role_ == Role::kInput || !floating(tensor.dtype_)) continue;
    for_elements(tensor.shape_, size_of(tensor.dtype_), 0, [&](int64_t offset, int64_t) {
      if (is_nan(tensor.memory_->data() + offset, tensor.dtype_) !=
          is_nan(&expected[t][static_cast<size_t>(offset)], tensor.dtype_))
        fail("instruction sets differ on NaN in %s", tensor.name_.c_str());
    });
  }
}

// Bad values of one unit leave the results of the others as they are.
void Case::try_isolation(const Results& expected) {
  if (units_ < 2 || units_ > kMost) return;
  const int32_t unit = static_cast<int32_t>(choices_.below(units_));
  const double bad = choices_.of<double>({kNan, kInfinity, -kInfinity, 3.4e38});
  std::vector<std::vector<uint8_t>> originals;
  for (Tensor& tensor : tensors_) {
    originals.push_back(tensor.initial_);
    if (!tensor.memory_ || tensor.role_ == Role::kOutput || tensor.owners_.empty() || !floating(tensor.dtype_))
      continue;
    for_elements(tensor.shape_, size_of(tensor.dtype_), tensor.owner_axis_, [&](int64_t offset, int64_t index) {
      if (tensor.owners_[static_cast<size_t>(index)] == unit)
        store(&tensor.initial_[static_cast<size_t>(offset)], tensor.dtype_, bad);
    });
  }
  pure_ = false;
  succeed("with a bad unit");
  compare(expected, "with another unit bad", [&](const Tensor& tensor, int64_t index) {
    return !tensor.owners_.empty() && tensor.owners_[static_cast<size_t>(index)] != unit;
  });
  pure_ = true;
  for (size_t t = 0; t < tensors_.size(); ++t) tensors_[t].initial_ = originals[t];
}

// Inactive rows may hold anything.
void Case::try_ignored(const Results& expected) {
  bool any = false;
  std::vector<std::vector<uint8_t>> originals;
  for (Tensor& tensor : tensors_) {
    originals.push_back(tensor.initial_);
    if (!tensor.memory_ || tensor.ignored_.empty()) continue;
    const size_t element = static_cast<size_t>(size_of(tensor.dtype_));
    for_elements(tensor.shape_, static_cast<int64_t>(element), tensor.owner_axis_, [&](int64_t offset, int64_t index) {
      if (!tensor.ignored_[static_cast<size_t>(index)]) return;
      any = true;
      uint8_t* value = &tensor.initial_[static_cast<size_t>(offset)];
      const uint64_t bits = random_.next();
      std::memcpy(value, &bits, element);
      if (floating(tensor.dtype_) && random_.below(2)) store(value, tensor.dtype_, special(random_));
    });
  }
  if (any) {
    pure_ = false;
    succeed("with other values in inactive rows");
    compare(expected, "with other values in inactive rows",
            [](const Tensor& tensor, int64_t) { return tensor.sealed_; });
    pure_ = true;
  }
  for (size_t t = 0; t < tensors_.size(); ++t) tensors_[t].initial_ = originals[t];
}

// An output on its input gives what it gives beside it.
void Case::try_in_place(const Results& expected) {
  for (size_t t = 0; t < tensors_.size(); ++t) {
    Tensor& output = tensors_[t];
    if (!output.in_place_of_ || !output.memory_ || output.initial_.empty()) continue;
    for (Tensor& input : tensors_) {
      if (input.name_ != output.in_place_of_ || !input.memory_ || input.dtype_ != output.dtype_ ||
          input.shape_.count != output.shape_.count || input.shape_.stride != output.shape_.stride)
        continue;
      const saccade_address own = *output.field_;
      *output.field_ = *input.field_;
      query();
      const int32_t status = call();
      if (status != SACCADE_OK) fail("status %d in place", status);
      const int64_t element = size_of(input.dtype_);
      int64_t end = 0;
      for_rows(input.shape_, element, [&](int64_t offset, int64_t) {
        const size_t gap = static_cast<size_t>(end), row = static_cast<size_t>(offset),
                     bytes = static_cast<size_t>(input.shape_.count[2] * element);
        if (std::memcmp(input.memory_->data() + gap, &input.initial_[gap], row - gap))
          fail("in place, padding changed");
        if (std::memcmp(input.memory_->data() + row, &expected[t][row], bytes))
          fail("in place, %s has other bits", output.name_.c_str());
        end = offset + static_cast<int64_t>(bytes);
      });
      *output.field_ = own;
    }
  }
}

// Newer callers, whose new fields are 0, and older ones, who do not know the last fields.
void Case::try_other_struct(const Results& expected) {
  const uint64_t size = operation_.args_size;
  uint64_t used = size;
  while (used > 8 && !std::count_if(&args_[used - 8], &args_[used - 8] + 8, [](unsigned char x) { return x != 0; }))
    used -= 8;
  if (maybe())
    struct_size_ = size + 8 * static_cast<uint64_t>(choices_.between(1, 16));
  else
    struct_size_ = used + 8 * static_cast<uint64_t>(choices_.below(static_cast<int64_t>(size - used) / 8 + 1));
  const int32_t status = call();
  if (status != SACCADE_OK)
    fail("status %d with a struct of %llu bytes", status, static_cast<unsigned long long>(struct_size_));
  compare(expected, "with a struct of another size", nullptr);
  struct_size_ = size;
}

void Case::run() {
  operation_.describe(*this, args_.data());
  isa_ = static_cast<int>(choices_.below(contexts().instruction_sets()));
  threads_ = static_cast<int>(choices_.between(1, kMostThreads));
  context_ = contexts().get(isa_, threads_);
  allocate();
  if (sound() && fault()) corrupt_addresses();
  if (sound() && fault()) corrupt_struct();
  const WithoutGemm without_gemm(no_gemm_ ? context_ : nullptr);
  query();
  if (sound() && fault()) corrupt_workspace();
  if (workspace_field_ && sound() && choices_.one_in(16)) {
    const int32_t status = with_args(
        [&](saccade_context* context, const void* args) { return operation_.workspace(context, args, nullptr); });
    if (status != SACCADE_INVALID_ARGUMENT || std::strcmp(saccade_error_argument(context_), "bytes"))
      fail("status %d for a query without a place for its answer", status);
  }

  const int32_t status = call();
  if (!sound()) {
    check_refusal(status);
    for (const Tensor& tensor : tensors_)
      if (tensor.memory_) check_unchanged(tensor, "a refused call");
    if (!null_context_) ++tally_.refused;
    return;
  }
  if (status != SACCADE_OK) fail("status %d for a sound call", status);
  if (saccade_error_message(context_)[0]) fail("a message after success");
  check_outputs();
  ++tally_.succeeded;

  const Results expected = results();
  if (maybe()) {
    succeed("at the second call");
    compare(expected, "at the second call", nullptr);
  }
  if (maybe()) try_isolation(expected);
  if (maybe()) try_ignored(expected);
  if (maybe()) try_in_place(expected);
  if (choices_.one_in(4)) try_other_struct(expected);
  if (maybe()) try_other_threads(expected);
  if (choices_.one_in(4)) try_other_instruction_set(expected);
}

void Case::fail(const char* format, ...) {
  for (const Tensor& tensor : tensors_)
    if (tensor.memory_) tensor.memory_->allow_all();
  std::fprintf(stderr, "\n%s: ", operation_.name);
  va_list values;
  va_start(values, format);
  std::vfprintf(stderr, format, values);
  va_end(values);
  std::fprintf(stderr, "\n  instruction set %d, %d threads, struct of %llu bytes\n", isa_, threads_,
               static_cast<unsigned long long>(struct_size_));
  if (context_) std::fprintf(stderr, "  last error: %s\n", saccade_error_message(context_));
  for (const auto& [name, value] : drawn_) std::fprintf(stderr, "  %s %.9g\n", name.c_str(), value);
  for (const Refusal& refusal : refusals_)
    std::fprintf(stderr, "  to be refused with status %d for '%s'\n", refusal.status, refusal.argument.c_str());
  for (const Tensor& tensor : tensors_)
    std::fprintf(stderr, "  %-18s %s dtype %d [%lld, %lld, %lld] strides [%lld, %lld] at 0x%llx%s\n",
                 tensor.name_.c_str(),
                 tensor.role_ == Role::kInput    ? "in    "
                 : tensor.role_ == Role::kOutput ? "out   "
                                                 : "in/out",
                 tensor.dtype_, static_cast<long long>(tensor.shape_.count[0]),
                 static_cast<long long>(tensor.shape_.count[1]), static_cast<long long>(tensor.shape_.count[2]),
                 static_cast<long long>(tensor.shape_.stride[0]), static_cast<long long>(tensor.shape_.stride[1]),
                 static_cast<unsigned long long>(*tensor.field_), tensor.memory_ ? "" : " (no memory)");
  std::fflush(stderr);
  std::abort();
}

}  // namespace fuzz

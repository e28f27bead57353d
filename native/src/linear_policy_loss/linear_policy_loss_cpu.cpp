#include "linear_policy_loss/linear_policy_loss.h"
#include "policy_loss_from_logits/logit_policy.h"

namespace saccade::SACCADE_ISA {
namespace {

constexpr int64_t kRowsPerTask = 16;  // of hidden or weight, that only move

template <class Body>
void for_rows(Pool& pool, int64_t rows, const Body& body) {
  pool.run((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    const int64_t begin = task * kRowsPerTask, end = rows - begin < kRowsPerTask ? rows : begin + kRowsPerTask;
    for (int64_t r = begin; r < end; ++r) body(r);
  });
}

template <class From, class To>
SACCADE_INLINE void copy_row(const From* from, To* to, int64_t n) {
  for_lanes(n, [&](int64_t j, int64_t lanes) { store(to + j, lanes, load(from + j, lanes, 0.0f)); });
}

class Projection {
 public:
  Projection(Pool& pool, saccade_cblas_sgemm provider, const saccade_linear_policy_loss_args& args,
             const saccade_policy_loss_args& policy, const LinearPolicyWorkspace& workspace)
      : pool_(pool), provider_(provider), args_(args), work_(workspace), call_(args, policy, workspace.rows) {}

  void run() {
    call_.activate(pool_);
    for (int64_t r = 0; r < call_.policy.args.rows; ++r)
      if (call_.active(r)) work_.index[active_++] = static_cast<int32_t>(r);
    if (call_.two_passes())
      for_chunks([&](int64_t first, int64_t rows) {
        project(first, rows);
        for_logit_rows(pool_, rows, args_.vocabulary,
                       [&](int64_t i) { call_.forward(work_.index[first + i], logits(i)); });
      });
    call_.policy.count_blocks(pool_);
    if (call_.policy.by_sequence) call_.policy.evaluate_blocks(pool_);
    int64_t parts = 0;
    for_chunks([&](int64_t first, int64_t rows) {
      project(first, rows);
      for_logit_tasks(pool_, rows, args_.vocabulary, [&](int64_t task, int64_t begin, int64_t end) {
        if (!call_.two_passes())
          for (int64_t i = begin; i < end; ++i) call_.forward(work_.index[first + i], logits(i));
        call_.evaluate(parts + task, owned_from(first + begin), owned_from(first + end));
        if (args_.d_hidden || args_.d_weight)
          for (int64_t i = begin; i < end; ++i) call_.backward(work_.index[first + i], logits(i), logits(i));
      });
      parts += logit_tasks(rows, args_.vocabulary);
      if (args_.d_weight) add_weight_gradient(first, rows);
      if (args_.d_hidden) write_hidden_gradient(first, rows);
    });
    if (active_ == 0) call_.evaluate(parts++, 0, call_.policy.args.rows);
    call_.report(parts);
    finish();
  }

 private:
  float* logits(int64_t i) const { return work_.logits + i * args_.vocabulary; }

  // body(first, rows) for chunks of the active rows.
  template <class Body>
  void for_chunks(const Body& body) const {
    for (int64_t first = 0; first < active_; first += args_.chunk_rows)
      body(first, active_ - first < args_.chunk_rows ? active_ - first : args_.chunk_rows);
  }

  // The first of the rows that the active row number i answers for: itself and the inactive ones that follow; for the
  // first active row also those before it.
  int64_t owned_from(int64_t i) const { return i == 0 ? 0 : i == active_ ? call_.policy.args.rows : work_.index[i]; }

  void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, bool trans_a, const float* b,
                int64_t b_stride, bool trans_b, float beta, float* c, int64_t c_stride) const {
    saccade_gemm_args args = {};
    args.m = m;
    args.n = n;
    args.k = k;
    args.a = reinterpret_cast<saccade_address>(a);
    args.a_stride = a_stride;
    args.b = reinterpret_cast<saccade_address>(b);
    args.b_stride = b_stride;
    args.c = reinterpret_cast<saccade_address>(c);
    args.c_stride = c_stride;
    args.trans_a = trans_a;
    args.trans_b = trans_b;
    args.alpha = 1.0f;
    args.beta = beta;
    args.workspace = reinterpret_cast<saccade_address>(work_.products);
    gemm(pool_, provider_, args, gemm_plan(m, n, k));
  }

  // body(first, rows, weight, stride) for blocks of the weight's rows, as f32.
  template <class Body>
  void for_weight_blocks(const Body& body) const {
    if (args_.dtype == SACCADE_F32)
      return body(0, args_.vocabulary, pointer<const float>(args_.weight), args_.weight_stride);
    for (int64_t first = 0; first < args_.vocabulary; first += work_.weight_rows) {
      const int64_t left = args_.vocabulary - first, rows = left < work_.weight_rows ? left : work_.weight_rows;
      with_float_type(args_.dtype, [&](auto element) {
        using T = decltype(element);
        const T* weight = pointer<const T>(args_.weight) + first * args_.weight_stride;
        for_rows(pool_, rows, [&](int64_t v) {
          copy_row(weight + v * args_.weight_stride, work_.weight + v * args_.hidden_size, args_.hidden_size);
        });
      });
      body(first, rows, work_.weight, args_.hidden_size);
    }
  }

  // hidden and logits of a chunk.
  void project(int64_t first, int64_t rows) const {
    const int64_t d = args_.hidden_size;
    with_float_type(args_.dtype, [&](auto element) {
      using T = decltype(element);
      for_rows(pool_, rows, [&](int64_t i) {
        copy_row(pointer<const T>(args_.hidden) + work_.index[first + i] * args_.hidden_stride, work_.hidden + i * d,
                 d);
      });
    });
    for_weight_blocks([&](int64_t v, int64_t columns, const float* weight, int64_t stride) {
      multiply(rows, columns, d, work_.hidden, d, false, weight, stride, true, 0.0f, work_.logits + v,
               args_.vocabulary);
    });
  }

  bool narrow_weight_gradient() const { return args_.d_weight_dtype != SACCADE_F32; }
  float* d_weight() const { return narrow_weight_gradient() ? work_.d_weight : pointer<float>(args_.d_weight); }
  int64_t d_weight_stride() const { return narrow_weight_gradient() ? args_.hidden_size : args_.d_weight_stride; }

  void add_weight_gradient(int64_t first, int64_t rows) const {
    multiply(args_.vocabulary, args_.hidden_size, rows, work_.logits, args_.vocabulary, true, work_.hidden,
             args_.hidden_size, false, first == 0 ? 0.0f : 1.0f, d_weight(), d_weight_stride());
  }

  template <class Body>
  void with_hidden_gradient(const Body& body) const {
    const auto typed = [&](auto element) {
      using T = decltype(element);
      body([&](int64_t r) { return pointer<T>(args_.d_hidden) + r * args_.d_hidden_stride; });
    };
    if (args_.d_hidden_dtype == SACCADE_F32)
      typed(float{});
    else
      with_float_type(args_.dtype, typed);
  }

  // Its chunk takes the place of the chunk of hidden, which nothing needs any more.
  void write_hidden_gradient(int64_t first, int64_t rows) const {
    const int64_t d = args_.hidden_size;
    for_weight_blocks([&](int64_t v, int64_t columns, const float* weight, int64_t stride) {
      multiply(rows, d, columns, work_.logits + v, args_.vocabulary, false, weight, stride, false, v == 0 ? 0.0f : 1.0f,
               work_.hidden, d);
    });
    with_hidden_gradient([&](const auto& row) {
      for_rows(pool_, rows, [&](int64_t i) { copy_row(work_.hidden + i * d, row(work_.index[first + i]), d); });
    });
  }

  // What no chunk wrote.
  void finish() const {
    const int64_t d = args_.hidden_size;
    if (args_.d_hidden)
      with_hidden_gradient([&](const auto& row) {
        for_rows(pool_, call_.policy.args.rows, [&](int64_t r) {
          if (!call_.active(r)) fill_row(row(r), d, 0.0f);
        });
      });
    if (!args_.d_weight) return;
    if (active_ == 0)
      for_rows(pool_, args_.vocabulary, [&](int64_t v) { fill_row(d_weight() + v * d_weight_stride(), d, 0.0f); });
    if (!narrow_weight_gradient()) return;
    with_float_type(args_.dtype, [&](auto element) {
      using T = decltype(element);
      for_rows(pool_, args_.vocabulary, [&](int64_t v) {
        copy_row(work_.d_weight + v * d, pointer<T>(args_.d_weight) + v * args_.d_weight_stride, d);
      });
    });
  }

  Pool& pool_;
  const saccade_cblas_sgemm provider_;
  const saccade_linear_policy_loss_args& args_;
  const LinearPolicyWorkspace& work_;
  LogitPolicy call_;
  int64_t active_ = 0;
};

}  // namespace

void linear_policy_loss(Pool& pool, saccade_cblas_sgemm provider, const saccade_linear_policy_loss_args& args,
                        const saccade_policy_loss_args& policy, const LinearPolicyWorkspace& workspace) {
  Projection(pool, provider, args, policy, workspace).run();
}

}  // namespace saccade::SACCADE_ISA

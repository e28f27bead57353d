/*
 * Saccade: fused kernels for the reinforcement-learning post-training of multimodal models.
 *
 * The whole C ABI.  One function per operation, one args struct per function; the order below is the table of
 * contents.  Sections marked § refer to docs/spec.md, the mathematical contract.
 *
 * Conventions
 *   Addresses     saccade_address, host memory for a CPU context, device memory for a CUDA context, unless a
 *                 field says "host".  0 means absent; a required field that is absent is an error unless its
 *                 size is 0.
 *   Layout        row-major, last dimension contiguous.  *_stride fields count elements; 0 means dense.
 *                 Padding between rows is never read or written.
 *   float tensor  f32, bf16 or f16, named by a *_dtype field next to the address.  Everything else is f32
 *                 unless a comment says otherwise.
 *   Packing       offsets[S+1], i32, from 0, non-decreasing: sequence s owns rows offsets[s] .. offsets[s+1]-1.
 *   Outputs       are always overwritten, never accumulated into, unless a field says so; they may not overlap
 *                 inputs or one another.  Optional outputs may be 0.
 *   Options       a field of value 0 is "off" or the value named in its comment; nothing is defaulted silently.
 *   Scalars       *_scalar fields are optional addresses of one f32 (or i64 where noted) next to the data; when
 *                 given they replace the plain field, so that a captured launch can be replayed with new values.
 *   Memory        no operation allocates.  saccade_<op>_workspace() gives the bytes that `workspace` must hold
 *                 (0: none is needed); it depends on metadata only.  Workspaces are 64-byte aligned and overlap
 *                 no tensor.
 *   Errors        every function returns a saccade_status; the message stays in the context until its next call.
 *   Threads       a context is used by one thread at a time.
 *   Versions      struct_size is sizeof of the struct that the caller was compiled with.  Structs only grow at
 *                 the end; new fields mean "off" when 0.
 */
#ifndef SACCADE_H
#define SACCADE_H

#include <stdint.h>

#if defined(__GNUC__)
#define SACCADE_API __attribute__((visibility("default")))
#else
#define SACCADE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SACCADE_ABI_VERSION 2

typedef uint64_t saccade_address;

typedef enum saccade_status {
  SACCADE_OK = 0,
  SACCADE_INVALID_ARGUMENT = 1, /* metadata or host data is wrong: the message names argument, expected, actual */
  SACCADE_UNSUPPORTED = 2,      /* the build, the device or the context cannot do this */
  SACCADE_OUT_OF_MEMORY = 3,    /* recoverable: the context stays usable */
  SACCADE_INTERNAL = 4,         /* a defect */
  SACCADE_FATAL = 5             /* this process can no longer use the GPU: destroy its contexts */
} saccade_status;

typedef enum saccade_dtype {
  SACCADE_F32 = 0,
  SACCADE_BF16 = 1,
  SACCADE_F16 = 2,
  SACCADE_F64 = 3,
  SACCADE_I32 = 4,
  SACCADE_I64 = 5,
  SACCADE_U8 = 6
} saccade_dtype;

typedef enum saccade_device { SACCADE_CPU = 0, SACCADE_CUDA = 1 } saccade_device;

/* ---------------------------------------------------------------------------------------- library and context */

/* SACCADE_ABI_VERSION of the library; a binding compares it with its own before anything else. */
SACCADE_API int32_t saccade_abi_version(void);

/* One line: version, compiler, build type, backends.  Static storage. */
SACCADE_API const char* saccade_build_info(void);

/* A GPU of this machine, whether this library can use it or not. */
typedef struct saccade_gpu {
  uint64_t struct_size;
  int32_t count;        /* GPUs of this machine: indices are 0 .. count-1 */
  int32_t capability;   /* compute capability, 10 * major + minor; contexts need 80 or more */
  int32_t processors;   /* multiprocessors */
  int32_t cuda_version; /* the newest that the driver serves, 1000 * major + 10 * minor */
  int64_t memory;       /* bytes */
  char name[128];
} saccade_gpu;

/* Describes GPU `index` in *gpu.  SACCADE_UNSUPPORTED where the build has no CUDA backend, or the machine no GPU or no
   driver; error receives the message as that of saccade_context_create. */
SACCADE_API int32_t saccade_gpu_describe(int32_t index, saccade_gpu* gpu, char* error, int64_t error_capacity);

typedef struct saccade_context saccade_context;

typedef struct saccade_context_args {
  uint64_t struct_size;
  int32_t device;       /* saccade_device */
  int32_t device_index; /* 0 for the CPU */
  int32_t threads;      /* CPU: worker threads including the caller; 0: one per hardware thread allowed */
  /* CPU instruction set: "avx512", "avx2", "baseline"; null or "": the best that this machine has.
     Naming one that the machine or the build lacks is an error. */
  const char* instruction_set;
  /* CUDA: the stream that launches go to; 0 is the legacy default stream. */
  saccade_address stream;
  int32_t own_stream; /* CUDA: 1: a new stream, which the context owns; `stream` is 0 then */
} saccade_context_args;

/* Creates a context in *context.  On failure *context is null and the message is written to error, at most
   error_capacity bytes with the terminating zero (error may be null when error_capacity is 0). */
SACCADE_API int32_t saccade_context_create(const saccade_context_args* args, saccade_context** context, char* error,
                                           int64_t error_capacity);
/* Null is allowed.  Tensors allocated from the context are not freed by this. */
SACCADE_API void saccade_context_destroy(saccade_context* context);

/* The last error of the context: whole message, or one of its parts ("" where a part does not apply).
   Valid until the next call with the context. */
SACCADE_API const char* saccade_error_message(const saccade_context* context);
SACCADE_API const char* saccade_error_argument(const saccade_context* context);
SACCADE_API const char* saccade_error_expected(const saccade_context* context);
SACCADE_API const char* saccade_error_actual(const saccade_context* context);

SACCADE_API int32_t saccade_context_threads(const saccade_context* context);
SACCADE_API const char* saccade_context_instruction_set(const saccade_context* context);

/* CUDA: the context's stream. */
SACCADE_API int32_t saccade_context_stream(saccade_context* context, saccade_address* stream);
/* CUDA: what the context does from now on happens after what another stream was given before. */
SACCADE_API int32_t saccade_context_wait_for(saccade_context* context, saccade_address stream);
/* CUDA: what another stream is given from now on happens after what the context did before. */
SACCADE_API int32_t saccade_context_signal(saccade_context* context, saccade_address stream);
/* Waits until all that the context was given is done, and reports what failed there. */
SACCADE_API int32_t saccade_context_synchronize(saccade_context* context);

/* CBLAS sgemm: order, transA, transB, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc.  order is 101 (row-major),
   trans 111 (no) or 112 (yes).  It must be callable from several threads at once and must not start threads of its
   own: the context splits products over its pool, so that the bits do not depend on the thread count. */
typedef void (*saccade_cblas_sgemm)(int32_t order, int32_t trans_a, int32_t trans_b, int32_t m, int32_t n, int32_t k,
                                    float alpha, const float* a, int32_t lda, const float* b, int32_t ldb, float beta,
                                    float* c, int32_t ldc);
/* Gives a CPU context its provider of matrix products: the address of a saccade_cblas_sgemm; 0 takes it away. */
SACCADE_API int32_t saccade_context_set_gemm(saccade_context* context, saccade_address cblas_sgemm);

/* The addresses of functions of cuBLAS 12 or later, each named by its field. */
typedef struct saccade_cublas {
  uint64_t struct_size;
  saccade_address create;        /* cublasCreate_v2 */
  saccade_address destroy;       /* cublasDestroy_v2 */
  saccade_address set_stream;    /* cublasSetStream_v2 */
  saccade_address set_workspace; /* cublasSetWorkspace_v2 */
  saccade_address gemm_ex;       /* cublasGemmEx */
  saccade_address status_string; /* cublasGetStatusString */
} saccade_cublas;

/* Gives a CUDA context its provider of matrix products, in the place of one that it has; null takes it away.  The
   context makes a handle on its stream with 32 MiB of workspace, so that products allocate nothing, can be captured,
   and give the same bits every time.  The library that the functions are of must outlive the context. */
SACCADE_API int32_t saccade_context_set_cublas(saccade_context* context, const saccade_cublas* functions);

/* ------------------------------------------------------------------------------------------------------ graphs */

/* CUDA: operations, copies within the GPU and saccade_memory_zero are recorded from here on instead of run, until
   saccade_graph_end, by the same thread.  The stream must not be the legacy default one.  Memory may be allocated
   meanwhile, not freed. */
SACCADE_API int32_t saccade_graph_begin(saccade_context* context);
/* Ends the recording.  *graph: what was recorded, 0 where that failed. */
SACCADE_API int32_t saccade_graph_end(saccade_context* context, saccade_address* graph);
/* Runs what was recorded, in the order of the context's stream, on the same addresses. */
SACCADE_API int32_t saccade_graph_launch(saccade_context* context, saccade_address graph);
/* 0 is allowed.  A launch that is under way ends well. */
SACCADE_API int32_t saccade_graph_destroy(saccade_context* context, saccade_address graph);

/* While a graph is recorded: what lies between the two is a branch of it, which begins when all before it is done and
   which what comes after it waits for only at the next saccade_branch_join, or at the end of the graph.  Branches
   follow each other.  Else, and on the CPU, all is done in order.  Products of matrices have 32 MiB of workspace more
   here. */
SACCADE_API int32_t saccade_branch_begin(saccade_context* context);
SACCADE_API int32_t saccade_branch_end(saccade_context* context);
SACCADE_API int32_t saccade_branch_join(saccade_context* context);

/* ------------------------------------------------------------------------------------------------------ memory */

/* bytes of memory on the context's device, 64-byte aligned; 0 bytes give address 0. */
SACCADE_API int32_t saccade_memory_allocate(saccade_context* context, int64_t bytes, saccade_address* address);
SACCADE_API int32_t saccade_memory_free(saccade_context* context, saccade_address address);
/* CUDA: page-locked host memory for one copy to the GPU, bytes of it, which is the source of the next
   saccade_memory_copy: that returns at once, and the memory is the context's again.  *address is 0 where bytes are more
   than it keeps, 4 MiB, where the system gives none, and while a graph is recorded. */
SACCADE_API int32_t saccade_memory_stage(saccade_context* context, int64_t bytes, saccade_address* address);
/* Ordered with the context's operations.  Each side is memory of the context's device, or host memory, which may be
   changed, or read, when the call returns. */
SACCADE_API int32_t saccade_memory_copy(saccade_context* context, saccade_address destination, saccade_address source,
                                        int64_t bytes);
SACCADE_API int32_t saccade_memory_zero(saccade_context* context, saccade_address destination, int64_t bytes);

/* Memory that is shared with other libraries, as the DLManagedTensor of DLPack (https://dmlc.github.io/dlpack). */

#define SACCADE_DLPACK_DIMENSIONS 8

/* A view of memory of the context's device: row-major, the last dimension without gaps; others may have some. */
typedef struct saccade_dlpack_tensor {
  uint64_t struct_size;
  saccade_address data; /* of the first element */
  int32_t dtype;        /* saccade_dtype */
  int32_t dimensions;   /* 1 .. SACCADE_DLPACK_DIMENSIONS */
  int64_t shape[SACCADE_DLPACK_DIMENSIONS];
  int64_t strides[SACCADE_DLPACK_DIMENSIONS]; /* elements; that of a dimension of size 1 counts for nothing */
} saccade_dlpack_tensor;

/* Reads a DLManagedTensor of the context's device into *tensor, and takes nothing: whoever uses the memory calls
   saccade_dlpack_release() once, when done.  An error, also of a tensor that does not fit saccade_dlpack_tensor, leaves
   the DLManagedTensor the caller's. */
SACCADE_API int32_t saccade_dlpack_import(saccade_context* context, saccade_address managed,
                                          saccade_dlpack_tensor* tensor);
/* Calls the DLManagedTensor's deleter.  0 is allowed. */
SACCADE_API void saccade_dlpack_release(saccade_address managed);
/* Makes a DLManagedTensor of a view into `memory`, an address that saccade_memory_allocate() of the context gave.
   The memory is given back once saccade_memory_free() was called and the deleters of all its DLManagedTensors have
   run, in whatever order; these may run at any time, on any thread, also after the context was destroyed. */
SACCADE_API int32_t saccade_dlpack_export(saccade_context* context, saccade_address memory,
                                          const saccade_dlpack_tensor* tensor, saccade_address* managed);

/* ---------------------------------------------------------------------------------- §1 group_advantage [GRPO] */

typedef enum saccade_advantage_estimator {
  SACCADE_ADVANTAGE_GRPO = 0,
  SACCADE_ADVANTAGE_DR_GRPO = 1,
  SACCADE_ADVANTAGE_RLOO = 2,
  SACCADE_ADVANTAGE_BATCH_STD = 3,
  SACCADE_ADVANTAGE_REINFORCE_PP_BASELINE = 4
} saccade_advantage_estimator;

typedef struct saccade_group_advantage_args {
  uint64_t struct_size;
  int64_t size;               /* B */
  int64_t groups;             /* N */
  saccade_address rewards;    /* [B] */
  saccade_address offsets;    /* [N+1] i32, offsets[N] = B */
  saccade_address valid;      /* [B] u8, optional: all valid */
  saccade_address advantage;  /* out [B] */
  saccade_address mean;       /* out [N], optional */
  saccade_address std;        /* out [N], optional */
  saccade_address degenerate; /* out [N] u8, optional */
  int32_t estimator;          /* saccade_advantage_estimator */
  int32_t ddof;               /* 0 or more; the usual value is 1 */
  float eps;                  /* >= 0; the usual value is 1e-4 */
  saccade_address workspace;
} saccade_group_advantage_args;

SACCADE_API int32_t saccade_group_advantage_workspace(saccade_context* context,
                                                      const saccade_group_advantage_args* args, int64_t* bytes);
SACCADE_API int32_t saccade_group_advantage(saccade_context* context, const saccade_group_advantage_args* args);

/* ------------------------------------------------------------------------------------------ §2 token_log_probs */

typedef struct saccade_token_log_probs_args {
  uint64_t struct_size;
  int64_t rows;           /* R */
  int64_t vocabulary;     /* V >= 1 */
  saccade_address logits; /* [R,V] float */
  int64_t logits_stride;
  int32_t logits_dtype;
  int32_t ignore_index;     /* the usual value is -100 */
  saccade_address targets;  /* [R] i32; outside [0,V) and not ignore_index: NaN in that row */
  float temperature;        /* > 0 */
  saccade_address log_prob; /* out [R] */
  saccade_address entropy;  /* out [R], optional */
  saccade_address lse;      /* out [R], optional */
} saccade_token_log_probs_args;

SACCADE_API int32_t saccade_token_log_probs(saccade_context* context, const saccade_token_log_probs_args* args);

typedef struct saccade_token_log_probs_backward_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t vocabulary;
  saccade_address logits; /* [R,V] float */
  int64_t logits_stride;
  int32_t logits_dtype;
  int32_t ignore_index;
  saccade_address targets; /* [R] i32 */
  float temperature;
  saccade_address d_log_prob; /* [R], optional: 0 */
  saccade_address d_entropy;  /* [R], optional: 0 */
  saccade_address d_logits;   /* out [R,V] float; may be the logits themselves, exactly */
  int64_t d_logits_stride;
  int32_t d_logits_dtype; /* that of the logits, or f32 */
} saccade_token_log_probs_backward_args;

SACCADE_API int32_t saccade_token_log_probs_backward(saccade_context* context,
                                                     const saccade_token_log_probs_backward_args* args);

/* --------------------------------------------------------------------------------------- §3 sampled_kl [Schulman] */

typedef enum saccade_kl_estimator {
  SACCADE_KL_K1 = 0,
  SACCADE_KL_ABS = 1,
  SACCADE_KL_K2 = 2,
  SACCADE_KL_K3 = 3,
  SACCADE_KL_K1_ST = 4,
  SACCADE_KL_K3_ST = 5
} saccade_kl_estimator;

typedef struct saccade_sampled_kl_args {
  uint64_t struct_size;
  int64_t rows;                 /* R */
  saccade_address log_prob;     /* [R] */
  saccade_address ref_log_prob; /* [R] */
  saccade_address old_log_prob; /* [R]; required when importance_corrected */
  saccade_address kl;           /* out [R] */
  saccade_address d_log_prob;   /* out [R], optional */
  int32_t estimator;            /* saccade_kl_estimator */
  int32_t importance_corrected; /* 0 or 1 */
} saccade_sampled_kl_args;

SACCADE_API int32_t saccade_sampled_kl(saccade_context* context, const saccade_sampled_kl_args* args);

/* ------------------------------------------------------------------------------------ §4 logit_divergence [GKD] */

typedef enum saccade_divergence {
  SACCADE_DIVERGENCE_JSD = 0,
  SACCADE_DIVERGENCE_FORWARD_KL = 1,
  SACCADE_DIVERGENCE_REVERSE_KL = 2
} saccade_divergence;

/* Exact divergence over the vocabulary between the policy softmax(logits/temperature) and the reference
   softmax(ref_logits/temperature), which gets no gradient. */
typedef struct saccade_logit_divergence_args {
  uint64_t struct_size;
  int64_t rows;           /* R */
  int64_t vocabulary;     /* V >= 1 */
  saccade_address logits; /* [R,V] float */
  int64_t logits_stride;
  saccade_address ref_logits; /* [R,V], dtype of the logits */
  int64_t ref_logits_stride;
  int32_t dtype;              /* of logits and ref_logits */
  int32_t kind;               /* saccade_divergence */
  float beta;                 /* JSD: inside (0,1); the usual value is 0.5 */
  float temperature;          /* > 0 */
  saccade_address weight;     /* [R], optional: 1; a row of weight 0 gets a zero gradient, whatever it holds */
  saccade_address divergence; /* out [R], optional */
  saccade_address d_logits;   /* out [R,V] float, optional: of sum weight*divergence; may be the logits, exactly */
  int64_t d_logits_stride;
  int32_t d_logits_dtype;      /* that of the logits, or f32 */
  saccade_address grad_output; /* optional f32, multiplies d_logits */
} saccade_logit_divergence_args;

SACCADE_API int32_t saccade_logit_divergence(saccade_context* context, const saccade_logit_divergence_args* args);

/* ----------------------------------------------------------------------------------------------- §5 policy_loss */

typedef enum saccade_objective {
  SACCADE_OBJECTIVE_PPO_CLIP = 0,
  SACCADE_OBJECTIVE_GSPO = 1,
  SACCADE_OBJECTIVE_GSPO_TOKEN = 2,
  SACCADE_OBJECTIVE_CISPO = 3,
  SACCADE_OBJECTIVE_SAPO = 4,
  SACCADE_OBJECTIVE_REINFORCE = 5
} saccade_objective;

typedef enum saccade_aggregation {
  SACCADE_AGGREGATION_TOKEN_MEAN = 0,
  SACCADE_AGGREGATION_SEQ_MEAN_TOKEN_MEAN = 1,
  SACCADE_AGGREGATION_SEQ_MEAN_TOKEN_SUM = 2,
  SACCADE_AGGREGATION_CONSTANT = 3
} saccade_aggregation;

/* Places of the values in policy_loss's `metrics`. */
typedef enum saccade_policy_metric {
  SACCADE_METRIC_CLIPPED_LOW = 0,   /* fraction of active rows that clipping from below leaves without a gradient
                                       (CISPO: whose ratio it replaces) */
  SACCADE_METRIC_CLIPPED_HIGH = 1,  /* ... from above */
  SACCADE_METRIC_RATIO = 2,         /* mean ratio */
  SACCADE_METRIC_KL = 3,            /* mean value of the KL estimator, 0 when kl_coef is 0 */
  SACCADE_METRIC_TOKEN_LOSS = 4,    /* mean token loss */
  SACCADE_METRIC_ACTIVE = 5,        /* number of active rows */
  SACCADE_METRIC_MAX_LOG_RATIO = 6, /* max |log_prob - old_log_prob| */
  SACCADE_POLICY_METRICS = 7
} saccade_policy_metric;

typedef struct saccade_policy_loss_args {
  uint64_t struct_size;
  int64_t rows;                 /* R */
  int64_t sequences;            /* S */
  saccade_address log_prob;     /* [R] */
  saccade_address old_log_prob; /* [R] */
  saccade_address ref_log_prob; /* [R]; required when kl_coef != 0 or kl_coef_scalar is given */
  saccade_address advantage;    /* [R], or [S] when advantage_per_sequence */
  saccade_address mask;         /* [R] u8, optional: all active */
  saccade_address is_weight;    /* [R], optional: 1 */
  saccade_address offsets;      /* [S+1] i32, offsets[S] = R */
  saccade_address loss;         /* out [1] */
  saccade_address token_loss;   /* out [R], optional */
  saccade_address d_log_prob;   /* out [R], optional */
  saccade_address metrics;      /* out [SACCADE_POLICY_METRICS], optional */
  saccade_address workspace;
  int32_t objective;               /* saccade_objective */
  int32_t aggregation;             /* saccade_aggregation */
  int32_t kl_estimator;            /* saccade_kl_estimator */
  int32_t advantage_per_sequence;  /* 0 or 1 */
  float clip_low;                  /* 0 .. 1; the usual value is 0.2 */
  float clip_high;                 /* >= 0; the usual value is 0.2 */
  float dual_clip;                 /* 0: off; else > 1 */
  float delta;                     /* 0: off; else >= 1 + clip_high */
  float tau_pos;                   /* SAPO: > 0; the usual value is 1.0 */
  float tau_neg;                   /* SAPO: > 0; the usual value is 1.05 */
  float constant;                  /* CONSTANT: > 0 */
  float normalizer;                /* 0: off; else > 0 and takes the place of the denominator of the aggregation:
                                      of sum n_s (TOKEN_MEAN), S (SEQ_MEAN_*) or constant */
  float kl_coef;                   /* >= 0; 0: no KL term */
  saccade_address kl_coef_scalar;  /* optional f32 */
  saccade_address grad_output;     /* optional f32, multiplies d_log_prob */
  int32_t kl_importance_corrected; /* 0 or 1: the KL term is multiplied by the token's ratio, as in sampled_kl */
  saccade_address kl; /* out [R], optional: value of the KL estimator, 0 on inactive rows; needs ref_log_prob */
} saccade_policy_loss_args;

SACCADE_API int32_t saccade_policy_loss_workspace(saccade_context* context, const saccade_policy_loss_args* args,
                                                  int64_t* bytes);
SACCADE_API int32_t saccade_policy_loss(saccade_context* context, const saccade_policy_loss_args* args);

/* -------------------------------------------------------------------------------- §6 policy_loss_from_logits */

/* token_log_probs, sampled_kl and policy_loss in one operation, with the gradient by the logits.  A row is active where
   its mask is not 0 and its target is not ignore_index; the logits of other rows are not read.
   loss = that of policy_loss - sum a_t * entropy_coef * entropy_t. */
typedef struct saccade_policy_loss_from_logits_args {
  uint64_t struct_size;
  /* R, S, options, inputs and outputs of policy_loss, a host struct.  Its log_prob is optional here: what
     token_log_probs gave on the same logits, in the place of computing it.  With it GSPO and GSPO_TOKEN, whose ratio
     needs the whole sequence first, read the logits once instead of twice.  Its d_log_prob and workspace are 0;
     grad_output multiplies d_logits. */
  const saccade_policy_loss_args* policy;
  int64_t vocabulary;     /* V >= 1 */
  saccade_address logits; /* [R,V] float */
  int64_t logits_stride;
  int32_t logits_dtype;
  int32_t ignore_index;     /* the usual value is -100 */
  saccade_address targets;  /* [R] i32; outside [0,V) and not ignore_index: NaN in that row */
  float temperature;        /* > 0 */
  float entropy_coef;       /* finite; 0: no entropy term */
  saccade_address log_prob; /* out [R], optional; 0 on inactive rows, as the next two */
  saccade_address entropy;  /* out [R], optional */
  saccade_address lse;      /* out [R], optional */
  saccade_address d_logits; /* out [R,V] float, optional; may be the logits themselves, exactly */
  int64_t d_logits_stride;
  int32_t d_logits_dtype; /* that of the logits, or f32 */
  saccade_address workspace;
} saccade_policy_loss_from_logits_args;

SACCADE_API int32_t saccade_policy_loss_from_logits_workspace(saccade_context* context,
                                                              const saccade_policy_loss_from_logits_args* args,
                                                              int64_t* bytes);
SACCADE_API int32_t saccade_policy_loss_from_logits(saccade_context* context,
                                                    const saccade_policy_loss_from_logits_args* args);

/* ------------------------------------------------------------------------------------- §7 linear_policy_loss */

/* policy_loss_from_logits of logits = hidden * weight^T, of which at most chunk_rows x V exist at a time.  Only active
   rows are multiplied.  Needs the context's provider of matrix products. */
typedef struct saccade_linear_policy_loss_args {
  uint64_t struct_size;
  const saccade_policy_loss_args* policy; /* as in policy_loss_from_logits; a known log_prob saves GSPO and GSPO_TOKEN
                                             the first of two products */
  int64_t vocabulary;                     /* V >= 1 */
  int64_t hidden_size;                    /* D >= 1 */
  int64_t chunk_rows;                     /* >= 1 */
  saccade_address hidden;                 /* [R,D] float */
  int64_t hidden_stride;
  saccade_address weight; /* [V,D], dtype of hidden */
  int64_t weight_stride;
  int32_t dtype;            /* of hidden and weight */
  int32_t ignore_index;     /* the usual value is -100 */
  saccade_address targets;  /* [R] i32; outside [0,V) and not ignore_index: NaN in that row */
  float temperature;        /* > 0 */
  float entropy_coef;       /* finite; 0: no entropy term */
  saccade_address log_prob; /* out [R], optional; 0 on inactive rows, as the next two */
  saccade_address entropy;  /* out [R], optional */
  saccade_address lse;      /* out [R], optional */
  saccade_address d_hidden; /* out [R,D] float, optional */
  int64_t d_hidden_stride;
  saccade_address d_weight; /* out [V,D] float, optional; summed in f32 */
  int64_t d_weight_stride;
  int32_t d_hidden_dtype; /* that of hidden, or f32 */
  int32_t d_weight_dtype; /* that of weight, or f32; a 16-bit one needs a workspace of its size in f32 */
  saccade_address workspace;
} saccade_linear_policy_loss_args;

SACCADE_API int32_t saccade_linear_policy_loss_workspace(saccade_context* context,
                                                         const saccade_linear_policy_loss_args* args, int64_t* bytes);
SACCADE_API int32_t saccade_linear_policy_loss(saccade_context* context, const saccade_linear_policy_loss_args* args);

/* ------------------------------------------------------------------------------- §8 the attention policy [RAL] */

typedef enum saccade_attention_support {
  SACCADE_SUPPORT_ALL = 0,
  SACCADE_SUPPORT_PREVIOUS = 1,
  SACCADE_SUPPORT_RANGES = 2
} saccade_attention_support;

typedef enum saccade_attention_reduction {
  SACCADE_REDUCTION_MEAN = 0,
  SACCADE_REDUCTION_NONE = 1
} saccade_attention_reduction;

typedef struct saccade_attention_policy_args {
  uint64_t struct_size;
  int64_t rows;      /* Tq */
  int64_t keys;      /* Tk */
  int64_t sequences; /* S */
  int64_t heads;     /* Hq, a multiple of kv_heads */
  int64_t kv_heads;  /* Hkv */
  int64_t head_dim;  /* D, 1 .. 256 */
  saccade_address q; /* [Tq,Hq,D] float */
  int64_t q_row_stride;
  int64_t q_head_stride;
  saccade_address k; /* [Tk,Hkv,D], dtype of q */
  int64_t k_row_stride;
  int64_t k_head_stride;
  int32_t dtype;                  /* of q and k */
  int32_t compact;                /* RANGES: 1 puts key begin+c of a sequence at column c of the map, 0 key c */
  saccade_address offsets_q;      /* [S+1] i32 */
  saccade_address offsets_k;      /* [S+1] i32 */
  saccade_address support_ranges; /* [S,2] i32, for RANGES */
  int64_t max_keys;               /* longest key sequence; a longer one gives NaN rows */
  float scale;                    /* the usual value is 1/sqrt(D) */
  int32_t support;                /* saccade_attention_support */
  int32_t reduction;              /* saccade_attention_reduction */
  int32_t head_begin;             /* 0 <= head_begin < head_end <= Hq */
  int32_t head_end;
  saccade_address entropy; /* out [Tq], optional */
  saccade_address mass;    /* out [Tq], optional */
  saccade_address lse;     /* out [Hq,Tq], optional */
  saccade_address map;     /* out [Tq,map_stride] f32 or bf16, optional, MEAN only */
  int64_t map_stride;      /* ld: at least max_keys, or the widest range when compact; all ld columns are written */
  int32_t map_dtype;
  saccade_address workspace;
} saccade_attention_policy_args;

SACCADE_API int32_t saccade_attention_policy_workspace(saccade_context* context,
                                                       const saccade_attention_policy_args* args, int64_t* bytes);
SACCADE_API int32_t saccade_attention_policy(saccade_context* context, const saccade_attention_policy_args* args);

typedef struct saccade_attention_divergence_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t keys;
  int64_t sequences;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  saccade_address q;
  int64_t q_row_stride;
  int64_t q_head_stride;
  saccade_address k;
  int64_t k_row_stride;
  int64_t k_head_stride;
  int32_t dtype;
  int32_t compact; /* `ref` is in the compact form */
  saccade_address offsets_q;
  saccade_address offsets_k;
  saccade_address support_ranges;
  int64_t max_keys;
  float scale;
  int32_t support;
  int32_t reduction;
  int32_t head_begin;
  int32_t head_end;
  saccade_address lse;            /* [Hq,Tq], optional input: that of attention_policy; saves work.  Policies are
                                     normalised by their own sums: its rounding is not in the results (bf16 on
                                     Hopper: a head's part of a mean is known to 2^-24 |lse|, given or not) */
  saccade_address weight;         /* [Tq], optional: 0 */
  saccade_address entropy_weight; /* [Tq], optional: 0 */
  /* The reference: exactly one of ref, (ref_q, ref_k), ref_index. */
  saccade_address ref; /* [Tq,ref_stride] f32 or bf16, MEAN only */
  int64_t ref_stride;
  int32_t ref_dtype;
  saccade_address ref_index; /* [Tq] i32, key of the sequence or -1 */
  saccade_address ref_q;     /* [Tq,ref_heads,ref_head_dim], dtype of q */
  int64_t ref_q_row_stride;
  int64_t ref_q_head_stride;
  saccade_address ref_k; /* [Tk,ref_kv_heads,ref_head_dim], dtype of q */
  int64_t ref_k_row_stride;
  int64_t ref_k_head_stride;
  int64_t ref_heads;
  int64_t ref_kv_heads;
  int64_t ref_head_dim;
  float ref_scale;
  int32_t ref_head_begin;
  int32_t ref_head_end;
  saccade_address ref_lse;    /* [ref_heads,Tq], optional input, as lse */
  int32_t kind;               /* saccade_divergence */
  float beta;                 /* JSD: inside (0,1); the usual value is 0.5 */
  saccade_address loss;       /* out [1], optional: sum weight*divergence - sum entropy_weight*entropy */
  saccade_address divergence; /* out [Tq], optional */
  saccade_address entropy;    /* out [Tq], optional */
  saccade_address mass;       /* out [Tq], optional */
  saccade_address dq;         /* out [Tq,Hq,D], optional; both dq and dk or neither */
  int64_t dq_row_stride;
  int64_t dq_head_stride;
  saccade_address dk; /* out [Tk,Hkv,D] */
  int64_t dk_row_stride;
  int64_t dk_head_stride;
  int32_t grad_dtype;          /* of dq and dk: that of q, or f32 */
  saccade_address dscore_sq;   /* out [Hq,Tq], optional, needs dq and dk */
  saccade_address grad_output; /* optional f32, multiplies dq and dk (and dscore_sq by its square) */
  saccade_address workspace;
} saccade_attention_divergence_args;

SACCADE_API int32_t saccade_attention_divergence_workspace(saccade_context* context,
                                                           const saccade_attention_divergence_args* args,
                                                           int64_t* bytes);
SACCADE_API int32_t saccade_attention_divergence(saccade_context* context,
                                                 const saccade_attention_divergence_args* args);

/* ------------------------------------------------------------------------------------------------ §10 optimizer */

typedef struct saccade_grad_norm_tensor {
  saccade_address grad; /* [count] */
  int64_t count;
} saccade_grad_norm_tensor;

typedef struct saccade_grad_norm_args {
  uint64_t struct_size;
  int64_t tensors;         /* number of entries */
  saccade_address entries; /* host array of saccade_grad_norm_tensor, [tensors] */
  saccade_address norm;    /* out [1] */
  saccade_address scale;   /* out [1], optional: min(1, max_norm / (norm + 1e-6)), NaN where norm is not finite */
  saccade_address workspace;
  float max_norm; /* > 0 when scale is given */
} saccade_grad_norm_args;

SACCADE_API int32_t saccade_grad_norm_workspace(saccade_context* context, const saccade_grad_norm_args* args,
                                                int64_t* bytes);
SACCADE_API int32_t saccade_grad_norm(saccade_context* context, const saccade_grad_norm_args* args);

typedef struct saccade_adamw_tensor {
  saccade_address param;      /* in/out [count] */
  saccade_address grad;       /* [count] */
  saccade_address m;          /* in/out [count] */
  saccade_address v;          /* in/out [count] */
  saccade_address param_bf16; /* out [count] bf16, optional */
  int64_t count;
  float weight_decay; /* >= 0 */
  float reserved;     /* 0 */
} saccade_adamw_tensor;

typedef struct saccade_adamw_args {
  uint64_t struct_size;
  int64_t tensors;
  saccade_address entries; /* host array of saccade_adamw_tensor, [tensors] */
  float lr;
  float beta1; /* [0,1) */
  float beta2; /* [0,1) */
  float eps;   /* > 0 */
  float grad_scale;
  int64_t step;                      /* 1-based */
  saccade_address lr_scalar;         /* optional f32 */
  saccade_address grad_scale_scalar; /* optional f32, e.g. grad_norm's scale; not finite: the step is skipped */
  saccade_address step_scalar;       /* optional i64 */
  saccade_address skipped;           /* in/out [1] i32, optional: incremented by a skipped step, which
                                     still writes param_bf16 */
} saccade_adamw_args;

SACCADE_API int32_t saccade_adamw(saccade_context* context, const saccade_adamw_args* args);

/* ----------------------------------------------------------------------------------------- §11 gradient_moments */

/* Mean and sum of squared deviations of gradient samples, element by element.  A state is count, mean and m2; where
   count is 0 the others may hold anything.  A negative count, which is no state, stays negative and makes all that is
   said of it NaN. */

/* Adds R samples: one read of each, one read and write of the state.  R = 0 leaves the state as it is. */
typedef struct saccade_gradient_moments_update_args {
  uint64_t struct_size;
  int64_t rows;            /* R */
  int64_t size;            /* n */
  saccade_address samples; /* [R,n] float */
  int64_t samples_stride;
  int32_t samples_dtype;
  saccade_address count; /* in/out [1] i64 */
  saccade_address mean;  /* in/out [n] */
  saccade_address m2;    /* in/out [n] f64 */
  saccade_address sum;   /* out [n], optional: the sum of the R samples, whatever the state */
} saccade_gradient_moments_update_args;

SACCADE_API int32_t saccade_gradient_moments_update(saccade_context* context,
                                                    const saccade_gradient_moments_update_args* args);

/* Adds the samples of another state (Chan), which stays as it is. */
typedef struct saccade_gradient_moments_merge_args {
  uint64_t struct_size;
  int64_t size;                /* n */
  saccade_address other_count; /* [1] i64 */
  saccade_address other_mean;  /* [n] */
  saccade_address other_m2;    /* [n] f64 */
  saccade_address count;       /* in/out [1] i64 */
  saccade_address mean;        /* in/out [n] */
  saccade_address m2;          /* in/out [n] f64 */
} saccade_gradient_moments_merge_args;

SACCADE_API int32_t saccade_gradient_moments_merge(saccade_context* context,
                                                   const saccade_gradient_moments_merge_args* args);

/* What a state says of the gradient's segments (heads, layers): mean_sq = |mean|^2, trace = sum m2/(count-1), the
   unbiased signal = mean_sq - trace/count, and snr = signal/trace.  Without samples mean_sq is 0; with fewer than two,
   trace, signal and snr are NaN, else an empty segment has mean_sq = trace = signal = 0 and a NaN snr. */
typedef struct saccade_gradient_moments_report_args {
  uint64_t struct_size;
  int64_t size;            /* n */
  int64_t segments;        /* S */
  saccade_address count;   /* [1] i64 */
  saccade_address mean;    /* [n] */
  saccade_address m2;      /* [n] f64 */
  saccade_address offsets; /* [S+1] i64, from 0, non-decreasing, offsets[S] <= n */
  saccade_address mean_sq; /* out [S], optional */
  saccade_address trace;   /* out [S], optional */
  saccade_address signal;  /* out [S], optional */
  saccade_address snr;     /* out [S], optional */
  saccade_address workspace;
} saccade_gradient_moments_report_args;

SACCADE_API int32_t saccade_gradient_moments_report_workspace(saccade_context* context,
                                                              const saccade_gradient_moments_report_args* args,
                                                              int64_t* bytes);
SACCADE_API int32_t saccade_gradient_moments_report(saccade_context* context,
                                                    const saccade_gradient_moments_report_args* args);

/* ------------------------------------------------------------------------- what a policy model needs besides */

/* What the factors of a product may be rounded to before they are multiplied; sums are f32.  A CPU context takes F32
   only. */
typedef enum saccade_precision {
  SACCADE_PRECISION_F32 = 0,
  SACCADE_PRECISION_TF32 = 1, /* 10 bits of mantissa */
  SACCADE_PRECISION_BF16 = 2  /* 7 bits of mantissa */
} saccade_precision;

/* gemm: C = alpha * op(A) * op(B) + beta * C, f32, by the context's provider.  A is [m,k] ([k,m] when trans_a),
   B is [k,n] ([n,k] when trans_b). */
typedef struct saccade_gemm_args {
  uint64_t struct_size;
  int64_t m;
  int64_t n;
  int64_t k;
  saccade_address a;
  int64_t a_stride;
  saccade_address b;
  int64_t b_stride;
  saccade_address c; /* in/out */
  int64_t c_stride;
  int32_t trans_a; /* 0 or 1 */
  int32_t trans_b;
  float alpha;
  float beta; /* 0: C is not read */
  saccade_address workspace;
  int32_t precision; /* saccade_precision */
} saccade_gemm_args;

SACCADE_API int32_t saccade_gemm_workspace(saccade_context* context, const saccade_gemm_args* args, int64_t* bytes);
SACCADE_API int32_t saccade_gemm(saccade_context* context, const saccade_gemm_args* args);

/* rms_norm: y = x * rstd * weight, rstd = 1/sqrt(mean(x^2) + eps), f32; at least one column.  With a residual, x +=
   residual first. */
typedef struct saccade_rms_norm_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t columns;
  saccade_address x; /* [rows,columns]; in/out with a residual */
  int64_t x_stride;
  saccade_address weight; /* [columns] */
  saccade_address y;      /* out [rows,columns] */
  int64_t y_stride;
  saccade_address rstd;     /* out [rows] */
  float eps;                /* >= 0 */
  saccade_address residual; /* [rows,columns], optional */
  int64_t residual_stride;
} saccade_rms_norm_args;

SACCADE_API int32_t saccade_rms_norm(saccade_context* context, const saccade_rms_norm_args* args);

typedef struct saccade_rms_norm_backward_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t columns;
  saccade_address x;
  int64_t x_stride;
  saccade_address weight;
  saccade_address rstd; /* [rows], from the forward pass */
  saccade_address dy;   /* [rows,columns] */
  int64_t dy_stride;
  saccade_address residual; /* [rows,columns], optional: is added to the gradient of x; may be dx */
  int64_t residual_stride;
  saccade_address dx; /* out [rows,columns] */
  int64_t dx_stride;
  saccade_address d_weight; /* in/out [columns]: the gradient is added */
  saccade_address workspace;
} saccade_rms_norm_backward_args;

SACCADE_API int32_t saccade_rms_norm_backward_workspace(saccade_context* context,
                                                        const saccade_rms_norm_backward_args* args, int64_t* bytes);
SACCADE_API int32_t saccade_rms_norm_backward(saccade_context* context, const saccade_rms_norm_backward_args* args);

/* swiglu: y = silu(gate) * up, gate and up the halves of x's columns, f32. */
typedef struct saccade_swiglu_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t columns;   /* of y; x has twice as many: gate, then up */
  saccade_address x; /* [rows,2*columns] dense */
  saccade_address y; /* out [rows,columns] dense */
} saccade_swiglu_args;

SACCADE_API int32_t saccade_swiglu(saccade_context* context, const saccade_swiglu_args* args);

typedef struct saccade_swiglu_backward_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t columns;
  saccade_address x;  /* [rows,2*columns] dense */
  saccade_address dy; /* [rows,columns] dense */
  saccade_address dx; /* out [rows,2*columns] dense; may be x exactly */
} saccade_swiglu_backward_args;

SACCADE_API int32_t saccade_swiglu_backward(saccade_context* context, const saccade_swiglu_backward_args* args);

/* gather_rows: y[out_index[i]] (+)= x[index[i]] for i in 0 .. count-1, f32: embedding look-up, packing, cache writes.
   An index or out_index of -1 skips the row (y then keeps its value when accumulate, else becomes 0 where out_index
   names it); any other index out of range gives a NaN row; a bad out_index writes nothing.  Without index (out_index),
   count is at most x_rows (y_rows).  Rows of y that no
   out_index names are not touched; two i of the same out_index are the caller's error. */
typedef struct saccade_gather_rows_args {
  uint64_t struct_size;
  int64_t count;
  int64_t columns;
  int64_t x_rows;
  saccade_address x; /* [x_rows,columns] */
  int64_t x_stride;
  saccade_address index; /* [count] i32, optional: i */
  int64_t y_rows;
  saccade_address y; /* in/out [y_rows,columns] */
  int64_t y_stride;
  saccade_address out_index; /* [count] i32, optional: i */
  int32_t accumulate;        /* 1: y is added to */
} saccade_gather_rows_args;

SACCADE_API int32_t saccade_gather_rows(saccade_context* context, const saccade_gather_rows_args* args);

/* scatter_add_rows: y[index[i]] += x[i], f32, the adjoint of gather_rows; rows of equal index are added in the order
   of i, in f32.  An index outside [0,y_rows) is skipped. */
typedef struct saccade_scatter_add_rows_args {
  uint64_t struct_size;
  int64_t count;
  int64_t columns;
  saccade_address x; /* [count,columns] */
  int64_t x_stride;
  saccade_address index; /* [count] i32 */
  int64_t y_rows;
  saccade_address y; /* in/out [y_rows,columns] */
  int64_t y_stride;
} saccade_scatter_add_rows_args;

SACCADE_API int32_t saccade_scatter_add_rows(saccade_context* context, const saccade_scatter_add_rows_args* args);

/* axpby: y = a*x + b*y over [rows,columns], f32. */
typedef struct saccade_axpby_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t columns;
  saccade_address x;
  int64_t x_stride;
  saccade_address y; /* in/out */
  int64_t y_stride;
  float a;
  float b; /* 0: y is not read */
} saccade_axpby_args;

SACCADE_API int32_t saccade_axpby(saccade_context* context, const saccade_axpby_args* args);

/* attention: causal grouped-query attention over packed sequences, o = softmax(scale*q*k^T)*v, f32.  Row i of a
   sequence of nq queries and nk keys sees keys 0 .. nk-nq+i (as §8).  lengths_k makes a cache of fixed capacity:
   sequence s then has lengths_k[s] keys, the first of its region offsets_k[s] .. offsets_k[s+1]-1.
   precision is that of all products, of probabilities and their gradients too; TF32 is computed as F32. */
typedef struct saccade_attention_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t keys;
  int64_t sequences;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;  /* 1 .. 256 */
  saccade_address q; /* [rows,heads,head_dim] */
  int64_t q_row_stride;
  int64_t q_head_stride;
  saccade_address k; /* [keys,kv_heads,head_dim] */
  int64_t k_row_stride;
  int64_t k_head_stride;
  saccade_address v; /* [keys,kv_heads,head_dim] */
  int64_t v_row_stride;
  int64_t v_head_stride;
  saccade_address offsets_q; /* [S+1] i32 */
  saccade_address offsets_k; /* [S+1] i32 */
  saccade_address lengths_k; /* [S] i32, optional */
  int64_t max_keys;          /* the longest key sequence */
  float scale;
  saccade_address o; /* out [rows,heads,head_dim] */
  int64_t o_row_stride;
  int64_t o_head_stride;
  saccade_address lse; /* out [heads,rows], optional */
  saccade_address workspace;
  int32_t precision; /* saccade_precision */
} saccade_attention_args;

SACCADE_API int32_t saccade_attention_workspace(saccade_context* context, const saccade_attention_args* args,
                                                int64_t* bytes);
SACCADE_API int32_t saccade_attention(saccade_context* context, const saccade_attention_args* args);

typedef struct saccade_attention_backward_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t keys;
  int64_t sequences;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  saccade_address q;
  int64_t q_row_stride;
  int64_t q_head_stride;
  saccade_address k;
  int64_t k_row_stride;
  int64_t k_head_stride;
  saccade_address v;
  int64_t v_row_stride;
  int64_t v_head_stride;
  saccade_address offsets_q;
  saccade_address offsets_k;
  int64_t max_keys;
  float scale;
  saccade_address o; /* [rows,heads,head_dim], from the forward pass */
  int64_t o_row_stride;
  int64_t o_head_stride;
  saccade_address lse; /* [heads,rows], from the forward pass */
  saccade_address d_o; /* [rows,heads,head_dim] */
  int64_t d_o_row_stride;
  int64_t d_o_head_stride;
  saccade_address dq; /* out [rows,heads,head_dim] */
  int64_t dq_row_stride;
  int64_t dq_head_stride;
  saccade_address dk; /* out [keys,kv_heads,head_dim] */
  int64_t dk_row_stride;
  int64_t dk_head_stride;
  saccade_address dv; /* out [keys,kv_heads,head_dim] */
  int64_t dv_row_stride;
  int64_t dv_head_stride;
  saccade_address workspace;
  int32_t precision; /* saccade_precision, that of the forward pass */
} saccade_attention_backward_args;

SACCADE_API int32_t saccade_attention_backward_workspace(saccade_context* context,
                                                         const saccade_attention_backward_args* args, int64_t* bytes);
SACCADE_API int32_t saccade_attention_backward(saccade_context* context, const saccade_attention_backward_args* args);

/* sample_tokens: draws one token a row from softmax(logits/temperature), or from its nucleus: the tokens whose logit is
   at least the largest value at which the probability of all tokens with at least that logit reaches top_p.  Tokens
   that tie with the last one all stay, and their probabilities keep their proportions.  Row r uses the uniform number
   of Philox4x32-10 at key (low, high word of `seed`), counter (low, high word of offset, low, high word of stream[r] as
   i64); stream is r itself when absent.  From the first two words of the result, u = (w1:w0 >> 11) * 2^-53.  The draw
   is the first token whose cumulative probability exceeds u; a row with NaN, +inf or only -inf gives token -1. */
typedef struct saccade_sample_tokens_args {
  uint64_t struct_size;
  int64_t rows;
  int64_t vocabulary;
  saccade_address logits; /* [rows,vocabulary] float */
  int64_t logits_stride;
  int32_t logits_dtype;
  float temperature; /* >= 0; 0: the largest logit, the first of equals */
  int64_t seed;
  int64_t offset;
  saccade_address offset_scalar; /* optional i64 */
  saccade_address stream;        /* [rows] i32, optional */
  saccade_address tokens;        /* out [rows] i32 */
  float top_p;                   /* in (0,1]; 0 and 1: all tokens */
} saccade_sample_tokens_args;

SACCADE_API int32_t saccade_sample_tokens(saccade_context* context, const saccade_sample_tokens_args* args);

#ifdef __cplusplus
}
#endif

#endif /* SACCADE_H */

// DLPack (https://dmlc.github.io/dlpack, dlpack.h of version 1.x): memory that crosses to and from other libraries.
#include "core/dlpack.h"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/call.h"

namespace saccade {
namespace {

// ------------------------------------------------------------------------------------------------ the structs of
// DLPack

enum DeviceType : int32_t { kCpu = 1, kCuda = 2 };
enum TypeCode : uint8_t { kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4 };

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct ManagedTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t dimensions;
  DataType type;
  int64_t* shape;
  int64_t* strides;  // null: dense
  uint64_t byte_offset;
  void* manager;
  void (*deleter)(ManagedTensor*);  // may be null
};
static_assert(sizeof(void*) == 8 && sizeof(ManagedTensor) == 64);

constexpr DataType kTypes[] = {{kFloat, 32, 1}, {kBfloat, 16, 1}, {kFloat, 16, 1}, {kFloat, 64, 1},
                               {kInt, 32, 1},   {kInt, 64, 1},    {kUint, 8, 1}};  // by saccade_dtype
constexpr int kTypeCount = sizeof kTypes / sizeof kTypes[0];

// --------------------------------------------------------------------------------------------------- shared ownership

// A block that managed tensors hold.
struct Block {
  int64_t holders;
  bool freed;      // by its owner: the last holder frees it
  int32_t device;  // GPU, or -1
};

struct Blocks {
  std::mutex mutex;
  std::unordered_map<saccade_address, Block> blocks;
};

// Never destroyed: deleters may run while the process ends.
Blocks& shared() {
  static Blocks* const blocks = new Blocks;
  return *blocks;
}

struct Export {
  ManagedTensor tensor;
  int64_t shape[SACCADE_DLPACK_DIMENSIONS], strides[SACCADE_DLPACK_DIMENSIONS];
  saccade_address block;
};

void hold(saccade_address block, int32_t device) {
  if (!block) return;
  const std::lock_guard<std::mutex> lock(shared().mutex);
  shared().blocks.emplace(block, Block{0, false, device}).first->second.holders++;
}

void let_go(ManagedTensor* tensor) {
  const std::unique_ptr<Export> own(static_cast<Export*>(tensor->manager));
  if (!own->block) return;
  const std::lock_guard<std::mutex> lock(shared().mutex);
  const auto found = shared().blocks.find(own->block);
  if (--found->second.holders > 0) return;
  const Block block = found->second;
  shared().blocks.erase(found);
  if (!block.freed) return;
  SACCADE_IF_CUDA(if (block.device >= 0) return cuda::free_now(block.device, own->block);)
  std::free(reinterpret_cast<void*>(own->block));
}

// ---------------------------------------------------------------------------------------------------------- the checks

// The index of the context's GPU; -1: a CPU context.
int32_t gpu_of(const saccade_context* context) {
  SACCADE_IF_CUDA(if (context->gpu) return cuda::index_of(*context->gpu);)
  (void)context;
  return -1;
}

void require_dimensions(const char* argument, int32_t dimensions) {
  if (dimensions < 1 || dimensions > SACCADE_DLPACK_DIMENSIONS) invalid(argument, "1 to 8", "%d", dimensions);
}

// Bytes from the first element to the end of the last.
int64_t require_layout(const saccade_dlpack_tensor& tensor, int64_t element_size) {
  bool empty = false;
  for (int d = 0; d < tensor.dimensions; ++d) {
    require_size("shape", tensor.shape[d]);
    empty |= tensor.shape[d] == 0;
  }
  if (empty) return 0;
  int64_t span = 1;
  for (int d = tensor.dimensions - 1; d >= 0; --d) {
    if (tensor.shape[d] == 1) continue;
    const int64_t stride = tensor.strides[d];
    const bool last = d == tensor.dimensions - 1;
    if (last ? stride != 1 : stride < span) {
      char expected[96];
      std::snprintf(expected, sizeof expected, "%lld%s in dimension %d", static_cast<long long>(span),
                    last ? "" : " or more", d);
      invalid("strides", expected, "%lld", static_cast<long long>(stride));
    }
    span += checked_product("shape", tensor.shape[d] - 1, stride);  // no more than doubles what is below 2^60
  }
  return checked_product("shape", span, element_size);
}

saccade_dlpack_tensor describe(const saccade_context* context, const ManagedTensor& managed) {
  saccade_dlpack_tensor tensor;
  std::memset(&tensor, 0, sizeof tensor);
  const int32_t gpu = gpu_of(context);
  if (gpu < 0 ? managed.device_type != kCpu : managed.device_type != kCuda || managed.device_id != gpu) {
    char expected[64] = "kDLCPU (1)";
    if (gpu >= 0) std::snprintf(expected, sizeof expected, "kDLCUDA (2), id %d", gpu);
    invalid("device", expected, "type %d, id %d", managed.device_type, managed.device_id);
  }
  const DataType& given = managed.type;
  tensor.dtype = -1;
  for (int t = 0; t < kTypeCount; ++t)
    if (given.code == kTypes[t].code && given.bits == kTypes[t].bits && given.lanes == 1) tensor.dtype = t;
  if (tensor.dtype < 0)
    invalid("dtype", "f32, bf16, f16, f64, i32, i64 or u8 of one lane", "code %d, %d bits, %d lanes", given.code,
            given.bits, given.lanes);
  require_dimensions("ndim", managed.dimensions);
  tensor.dimensions = managed.dimensions;
  if (!managed.shape) invalid("shape", "an address", "null");
  int64_t dense = 1;
  for (int d = managed.dimensions - 1; d >= 0; --d) {
    tensor.shape[d] = managed.shape[d];
    tensor.strides[d] = managed.strides && managed.shape[d] != 1 ? managed.strides[d] : dense;
    if (__builtin_mul_overflow(dense, managed.shape[d], &dense)) dense = 0;  // require_layout() refuses the shape
  }
  const int64_t element_size = given.bits / 8, bytes = require_layout(tensor, element_size);
  tensor.data = reinterpret_cast<saccade_address>(managed.data);
  if (tensor.data) tensor.data += managed.byte_offset;
  require_address("data", tensor.data, bytes / element_size, element_size);
  return tensor;
}

}  // namespace

bool let_holders_free(saccade_address block) {
  const std::lock_guard<std::mutex> lock(shared().mutex);
  const auto found = shared().blocks.find(block);
  if (found == shared().blocks.end()) return false;
  found->second.freed = true;
  return true;
}

}  // namespace saccade

using namespace saccade;

int32_t saccade_dlpack_import(saccade_context* context, saccade_address managed, saccade_dlpack_tensor* tensor) {
  return run(context, "dlpack_import", [&] {
    const auto caller = copy_args(tensor, "tensor");
    if (!managed) invalid("managed", "the address of a DLManagedTensor", "null");
    auto result = describe(context, *pointer<const ManagedTensor>(managed));
    result.struct_size = caller.struct_size;
    std::memcpy(tensor, &result, caller.struct_size < sizeof result ? caller.struct_size : sizeof result);
  });
}

void saccade_dlpack_release(saccade_address managed) {
  auto* tensor = pointer<ManagedTensor>(managed);
  if (tensor && tensor->deleter) tensor->deleter(tensor);
}

int32_t saccade_dlpack_export(saccade_context* context, saccade_address memory, const saccade_dlpack_tensor* caller,
                              saccade_address* managed) {
  return run(context, "dlpack_export", [&] {
    if (!managed) invalid("managed", "a place for the result", "null");
    *managed = 0;
    const auto args = copy_args(caller, "tensor");
    require_choice("dtype", args.dtype, kTypeCount, "a saccade_dtype (0 to 6)");
    require_dimensions("dimensions", args.dimensions);
    const int64_t element_size = kTypes[args.dtype].bits / 8;
    require_address("data", args.data, require_layout(args, element_size) / element_size, element_size);
    std::unique_ptr<Export> own(new Export{});
    std::memcpy(own->shape, args.shape, sizeof own->shape);
    std::memcpy(own->strides, args.strides, sizeof own->strides);
    own->block = memory;
    const int32_t gpu = gpu_of(context);
    own->tensor = {pointer<void>(args.data),
                   gpu < 0 ? kCpu : kCuda,
                   gpu < 0 ? 0 : gpu,
                   args.dimensions,
                   kTypes[args.dtype],
                   own->shape,
                   own->strides,
                   0,
                   own.get(),
                   let_go};
    hold(memory, gpu);
    *managed = reinterpret_cast<saccade_address>(&own.release()->tensor);
  });
}

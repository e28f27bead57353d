/* Tensors of DLPack from and to a library that counts its deleters. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "saccade.h"

/* As in dlpack.h 1.x. */
typedef struct {
  int32_t device_type, device_id;
} DLDevice;
typedef struct {
  uint8_t code, bits;
  uint16_t lanes;
} DLDataType;
typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensor*);
} DLManagedTensor;

static void count(DLManagedTensor* tensor) { ++*(int*)tensor->manager_ctx; }

static saccade_address address_of(const void* p) { return (saccade_address)(uintptr_t)p; }

static int imports(saccade_context* context) {
  float data[40] = {0};
  int64_t shape[9] = {2, 3, 1, 1, 1, 1, 1, 1, 1}, strides[3] = {5, 1, 7};
  int deleted = 0;
  DLManagedTensor managed = {{data, {1, 0}, 2, {2, 32, 1}, shape, strides, 8}, 0, count}, bad;
  saccade_dlpack_tensor tensor = {sizeof tensor, 0, 0, 0, {0}, {0}};
  managed.manager_ctx = &deleted;

  CHECK(saccade_dlpack_import(context, address_of(&managed), &tensor) == SACCADE_OK);
  CHECK(tensor.data == address_of(data + 2) && tensor.dtype == SACCADE_F32 && tensor.dimensions == 2);
  CHECK(tensor.shape[0] == 2 && tensor.shape[1] == 3 && tensor.strides[0] == 5 && tensor.strides[1] == 1);
  managed.dl_tensor.strides = 0;
  CHECK(saccade_dlpack_import(context, address_of(&managed), &tensor) == SACCADE_OK);
  CHECK(tensor.strides[0] == 3 && tensor.strides[1] == 1);
  CHECK(deleted == 0);
  saccade_dlpack_release(address_of(&managed));
  CHECK(deleted == 1);
  saccade_dlpack_release(0);
  managed.deleter = 0;
  saccade_dlpack_release(address_of(&managed));

  {
    static const struct {
      DLDataType type;
      int32_t dtype;
    } types[] = {{{2, 32, 1}, SACCADE_F32}, {{4, 16, 1}, SACCADE_BF16}, {{2, 16, 1}, SACCADE_F16},
                 {{2, 64, 1}, SACCADE_F64}, {{0, 32, 1}, SACCADE_I32},  {{0, 64, 1}, SACCADE_I64},
                 {{1, 8, 1}, SACCADE_U8},   {{2, 32, 2}, -1},           {{6, 8, 1}, -1},
                 {{0, 8, 1}, -1},           {{1, 32, 1}, -1},           {{4, 32, 1}, -1}};
    size_t i;
    for (i = 0; i < sizeof types / sizeof types[0]; ++i) {
      const int fits = types[i].dtype >= 0;
      bad = managed;
      bad.dl_tensor.dtype = types[i].type;
      CHECK(saccade_dlpack_import(context, address_of(&bad), &tensor) ==
            (fits ? SACCADE_OK : SACCADE_INVALID_ARGUMENT));
      if (fits) CHECK(tensor.dtype == types[i].dtype);
      if (!fits) CHECK(!strcmp(saccade_error_argument(context), "dtype"));
    }
  }

#define REFUSED(change, argument)                                                               \
  bad = managed;                                                                                \
  change;                                                                                       \
  CHECK(saccade_dlpack_import(context, address_of(&bad), &tensor) == SACCADE_INVALID_ARGUMENT); \
  CHECK(!strcmp(saccade_error_argument(context), argument))
  REFUSED(bad.dl_tensor.device.device_type = 2, "device");
  REFUSED(bad.dl_tensor.ndim = 0, "ndim");
  REFUSED(bad.dl_tensor.ndim = 9, "ndim");
  REFUSED(bad.dl_tensor.shape = 0, "shape");
  REFUSED(shape[1] = -1, "shape");
  REFUSED(shape[1] = INT64_MAX, "shape");
  shape[1] = 3;
  REFUSED(bad.dl_tensor.byte_offset = 2, "data");
  REFUSED(bad.dl_tensor.data = 0, "data");
  REFUSED((bad.dl_tensor.strides = strides, strides[0] = 2), "strides");
  REFUSED((bad.dl_tensor.strides = strides, strides[0] = -3), "strides");
  REFUSED((bad.dl_tensor.strides = strides, strides[0] = INT64_MAX), "shape");
  REFUSED((bad.dl_tensor.strides = strides, strides[0] = 1, strides[1] = 2), "strides");
  CHECK(saccade_dlpack_import(context, 0, &tensor) == SACCADE_INVALID_ARGUMENT);
  CHECK(saccade_dlpack_import(context, address_of(&managed), 0) == SACCADE_INVALID_ARGUMENT);

  /* No elements, no address; a dimension of one element may have any stride. */
  bad = managed;
  bad.dl_tensor.data = 0;
  shape[0] = 0;
  CHECK(saccade_dlpack_import(context, address_of(&bad), &tensor) == SACCADE_OK && tensor.shape[0] == 0);
  shape[0] = 2;
  bad = managed;
  bad.dl_tensor.ndim = 3;
  bad.dl_tensor.strides = strides;
  strides[0] = 3;
  strides[1] = 1;
  strides[2] = 77;
  CHECK(saccade_dlpack_import(context, address_of(&bad), &tensor) == SACCADE_OK && tensor.strides[2] == 1);
  CHECK(deleted == 1);
  return 0;
}

/* The memory is used until the last of owner and holders has let go of it: a sanitizer sees it if not. */
static int exports(saccade_context** context, int owner_first, int destroy) {
  saccade_address memory, first, second;
  saccade_dlpack_tensor tensor = {sizeof tensor, 0, SACCADE_BF16, 2, {2, 3}, {8, 1}};
  DLManagedTensor *a, *b;
  CHECK(saccade_memory_allocate(*context, 64, &memory) == SACCADE_OK);
  tensor.data = memory + 4;
  CHECK(saccade_dlpack_export(*context, memory, &tensor, &first) == SACCADE_OK);
  CHECK(saccade_dlpack_export(*context, memory, &tensor, &second) == SACCADE_OK);
  a = (DLManagedTensor*)(uintptr_t)first;
  b = (DLManagedTensor*)(uintptr_t)second;
  CHECK(a->dl_tensor.data == (void*)(uintptr_t)(memory + 4) && a->dl_tensor.byte_offset == 0);
  CHECK(a->dl_tensor.device.device_type == 1 && a->dl_tensor.device.device_id == 0);
  CHECK(a->dl_tensor.dtype.code == 4 && a->dl_tensor.dtype.bits == 16 && a->dl_tensor.dtype.lanes == 1);
  CHECK(a->dl_tensor.ndim == 2 && a->dl_tensor.shape[1] == 3 && a->dl_tensor.strides[0] == 8);
  if (owner_first) CHECK(saccade_memory_free(*context, memory) == SACCADE_OK);
  if (destroy) {
    saccade_context_destroy(*context);
    *context = 0;
  }
  a->deleter(a);
  memset((void*)(uintptr_t)memory, 1, 64);
  b->deleter(b);
  if (!owner_first) {
    memset((void*)(uintptr_t)memory, 2, 64);
    CHECK(saccade_memory_free(*context, memory) == SACCADE_OK);
  }
  return 0;
}

int main(void) {
  saccade_context* context = 0;
  saccade_context_args create;
  saccade_dlpack_tensor tensor = {sizeof tensor, 0, SACCADE_F32, 1, {0}, {1}};
  saccade_address managed = 1;

  memset(&create, 0, sizeof create);
  create.struct_size = sizeof create;
  CHECK(saccade_context_create(&create, &context, 0, 0) == SACCADE_OK);
  CHECK(imports(context) == 0);

  CHECK(saccade_dlpack_export(context, 0, &tensor, &managed) == SACCADE_OK); /* no elements */
  saccade_dlpack_release(managed);
  CHECK(saccade_dlpack_export(context, 0, &tensor, 0) == SACCADE_INVALID_ARGUMENT);
  tensor.shape[0] = 1;
  CHECK(saccade_dlpack_export(context, 0, &tensor, &managed) == SACCADE_INVALID_ARGUMENT && managed == 0);
  CHECK(!strcmp(saccade_error_argument(context), "data"));
  tensor.dtype = 7;
  CHECK(saccade_dlpack_export(context, 0, &tensor, &managed) == SACCADE_INVALID_ARGUMENT);
  tensor.dtype = SACCADE_F32;
  tensor.dimensions = 9;
  CHECK(saccade_dlpack_export(context, 0, &tensor, &managed) == SACCADE_INVALID_ARGUMENT);

  CHECK(exports(&context, 0, 0) == 0);
  CHECK(exports(&context, 1, 0) == 0);
  CHECK(exports(&context, 1, 1) == 0);
  return 0;
}

package dev.saccade.djl;

import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.types.DataType;
import dev.saccade.DType;
import dev.saccade.Device;
import dev.saccade.InvalidArgumentException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import org.bytedeco.javacpp.BytePointer;

/**
 * Arrays of DJL with its PyTorch engine as tensors of Saccade, in place, on the CPU.
 *
 * <p>A gradient goes back into DJL's autograd by a surrogate loss: {@code
 * collector.backward(y.mul(dY).sum())} with a dY that an operation of Saccade wrote to.
 */
public final class DjlTensors {
  private DjlTensors() {}

  /**
   * The array's memory, without a copy. It is shared: it stays until both the array and this tensor
   * are closed, so that the array's manager may be closed before.
   *
   * <p>BOOLEAN becomes u8, and an array without dimensions a tensor with a single element. Autograd
   * knows nothing of what operations write here.
   *
   * @param scope of a context of the CPU; closing it lets the memory go
   * @param array of the PyTorch engine, on the CPU, smaller than 2 GiB, without gaps: DJL hands out
   *     direct buffers and tells no strides
   * @throws InvalidArgumentException if the array is closed, of another engine or device, has an
   *     element type that Saccade lacks, or is a view with gaps or of another order, as that of a
   *     transpose is: {@code duplicate()} copies it
   */
  public static Tensor wrap(Scope scope, NDArray array) {
    if (scope == null) {
      throw invalid("scope", "a value", "null");
    }
    if (array == null) {
      throw invalid("array", "a value", "null");
    }
    if (array.isReleased()) {
      throw invalid("array", "an open array", "a closed one");
    }
    String engine = array.getManager().getEngine().getEngineName();
    if (!engine.equals("PyTorch")) {
      throw invalid("array", "an array of the engine PyTorch", "one of " + engine);
    }
    if (array.getDevice().isGpu()) {
      throw invalid("array", "an array on the CPU", "one on " + array.getDevice());
    }
    if (!scope.context().device().equals(Device.CPU)) {
      throw invalid("scope", "a context of the CPU", "one of " + scope.context().device());
    }
    if (array.isSparse()) {
      throw invalid("array", "a dense array", "a sparse one");
    }
    DType dtype = dtypeOf(array.getDataType());
    long[] shape = array.getShape().dimension() == 0 ? new long[] {1} : array.getShape().getShape();
    if (array.size() == 0) {
      return Tensor.wrap(scope, 0, array, dtype, shape);
    }
    if (array.size() > Integer.MAX_VALUE / dtype.bytes()) {
      throw invalid("array", "fewer than 2^31 bytes", array.size() + " elements of " + dtype);
    }
    // A handle of our own, which the array's manager and an NDScope leave alone.
    NDArray share = array.stopGradient();
    NDScope.unregister(share);
    try {
      long address;
      // Of an array with gaps the engine gives the buffer of a copy, a new one every time, which
      // belongs to the manager.
      try (NDManager copies = array.getManager().newSubManager()) {
        share.attach(copies);
        address = address(share);
        boolean isCopied = address(share) != address;
        share.detach();
        if (isCopied) {
          throw invalid("array", "an array without gaps, in row-major order", "a view of another");
        }
      }
      return Tensor.adopt(scope, address, share::close, dtype, shape, null);
    } catch (RuntimeException e) {
      share.close();
      throw e;
    }
  }

  private static long address(NDArray array) {
    try (BytePointer pointer = new BytePointer(array.toByteBuffer(true))) {
      return pointer.address();
    }
  }

  private static DType dtypeOf(DataType type) {
    return switch (type) {
      case FLOAT32 -> DType.F32;
      case BFLOAT16 -> DType.BF16;
      case FLOAT16 -> DType.F16;
      case FLOAT64 -> DType.F64;
      case INT32 -> DType.I32;
      case INT64 -> DType.I64;
      case UINT8, BOOLEAN -> DType.U8;
      default ->
          throw invalid(
              "array",
              "FLOAT32, BFLOAT16, FLOAT16, FLOAT64, INT32, INT64, UINT8 or BOOLEAN",
              type.toString());
    };
  }

  private static InvalidArgumentException invalid(String argument, String expected, String actual) {
    return new InvalidArgumentException("wrap", argument, expected, actual);
  }
}

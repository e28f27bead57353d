package dev.saccade.nd4j;

import dev.saccade.DType;
import dev.saccade.Device;
import dev.saccade.InvalidArgumentException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

/**
 * Arrays of ND4J as tensors of Saccade, in place, in host memory: results of operations go to
 * arrays that the caller gives.
 *
 * <p>A gradient goes back into SameDiff by a surrogate loss: a placeholder dY of the shape of Y, a
 * loss Σ Y·dY, and {@code calculateGradients} with what an operation of Saccade wrote to dY.
 * ({@code SameDiffUtils.externalErrors} of ND4J 1.0.0-M2.1 gives twice the gradient.)
 */
public final class Nd4jTensors {
  private Nd4jTensors() {}

  /**
   * The array's memory, without a copy. The array is kept reachable until the tensor or its scope
   * is closed; it may not be closed before, nor the workspace left that it is attached to.
   *
   * <p>BOOL becomes u8, and an array without dimensions a tensor with a single element.
   *
   * @param scope of a context of the CPU
   * @param array row-major ({@code 'c'} order), the last dimension contiguous; others may have
   *     gaps, as a view of some columns has
   * @throws InvalidArgumentException if the array is closed, has an element type that Saccade
   *     lacks, or strides that are not row-major: {@code dup('c')} copies it; if the context is of
   *     a GPU, or ND4J's backend is
   */
  public static Tensor wrap(Scope scope, INDArray array) {
    if (scope == null) {
      throw invalid("scope", "a value", "null");
    }
    if (array == null) {
      throw invalid("array", "a value", "null");
    }
    if (array.wasClosed()) {
      throw invalid("array", "an open array", "a closed one");
    }
    if (!Nd4j.getEnvironment().isCPU()) {
      throw invalid("array", "an array of a backend in host memory", "one of a GPU's");
    }
    if (!scope.context().device().equals(Device.CPU)) {
      throw invalid("scope", "a context of the CPU", "one of " + scope.context().device());
    }
    DType dtype = dtypeOf(array.dataType());
    if (array.isEmpty()) {
      return Tensor.wrap(scope, 0, array, dtype, array.rank() == 0 ? new long[1] : array.shape());
    }
    long address = array.data().address() + array.offset() * dtype.bytes(); // of a view
    return array.rank() == 0
        ? Tensor.wrap(scope, address, array, dtype, 1)
        : Tensor.wrap(scope, address, array, dtype, array.shape(), array.stride());
  }

  private static DType dtypeOf(DataType type) {
    return switch (type) {
      case FLOAT -> DType.F32;
      case BFLOAT16 -> DType.BF16;
      case HALF -> DType.F16;
      case DOUBLE -> DType.F64;
      case INT -> DType.I32;
      case LONG -> DType.I64;
      case UBYTE, BOOL -> DType.U8;
      default ->
          throw invalid(
              "array", "FLOAT, BFLOAT16, HALF, DOUBLE, INT, LONG, UBYTE or BOOL", type.toString());
    };
  }

  private static InvalidArgumentException invalid(String argument, String expected, String actual) {
    return new InvalidArgumentException("wrap", argument, expected, actual);
  }
}

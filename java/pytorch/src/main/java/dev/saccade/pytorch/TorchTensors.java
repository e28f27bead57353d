package dev.saccade.pytorch;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Device;
import dev.saccade.InvalidArgumentException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch_cuda;

/**
 * Tensors of PyTorch for the JVM (org.bytedeco:pytorch) as tensors of Saccade, in place: on the
 * CPU, and with a CUDA build of PyTorch on a GPU.
 *
 * <p>Gradients go back through PyTorch's own {@code torch.backward(y, dY, …)}: with the logits,
 * queries and keys of a forward pass as y, and as dY tensors of PyTorch that operations of Saccade
 * wrote to.
 */
public final class TorchTensors {
  private TorchTensors() {}

  /**
   * A context that computes where PyTorch does. On a GPU it launches on the stream that is
   * PyTorch's current one now, so that both take turns without waiting for each other; a thread
   * that makes another stream current needs another context, or {@link Context#waitFor} and {@link
   * Context#signal}.
   *
   * @param device of the tensors that will be wrapped, {@code tensor.device()}
   * @throws InvalidArgumentException if it is neither the CPU nor a GPU of CUDA
   */
  public static Context context(org.bytedeco.pytorch.Device device) {
    Device own = deviceOf(device);
    Context.Builder builder = Context.builder().device(own);
    return own.kind() == Device.Kind.CPU
        ? builder.build()
        : builder.stream(Cuda.currentStream(own.index())).build();
  }

  /**
   * The tensor's memory, without a copy. It is shared: PyTorch keeps it until both its own tensors
   * and this one are closed, so that a {@code PointerScope} may end before, or a module move to
   * another type or device, which gives its parameters other memory. {@code resize_} must not be
   * used meanwhile.
   *
   * <p>What PyTorch does to the memory in place is seen here and the other way round; autograd
   * knows nothing of what operations write here. Bool becomes u8, and a tensor without dimensions
   * one with a single element.
   *
   * @param scope of a context of the tensor's device; closing it lets the memory go. On a GPU the
   *     memory may then be used again in the order of PyTorch's stream: see {@link #context}
   * @param tensor row-major, the last dimension contiguous; others may have gaps, as a slice of a
   *     fused projection has
   * @throws InvalidArgumentException if the tensor is undefined, sparse or lazy, of another device,
   *     has an element type that Saccade lacks, or strides that are not row-major, as those of a
   *     transposed view are: {@code contiguous()} copies it
   */
  public static Tensor wrap(Scope scope, org.bytedeco.pytorch.Tensor tensor) {
    if (scope == null) {
      throw invalid("scope", "a value", "null");
    }
    if (tensor == null || tensor.isNull() || !tensor.defined()) {
      throw invalid("tensor", "a tensor", tensor == null ? "null" : "an undefined one");
    }
    if (tensor.layout().intern() != torch.Layout.Strided) {
      throw invalid("tensor", "layout Strided", tensor.layout().toString());
    }
    if (tensor.is_neg()) {
      throw invalid("tensor", "its values in memory", "a lazy negation: resolve_neg() computes it");
    }
    Device device = deviceOf(tensor.device());
    if (!device.equals(scope.context().device())) {
      throw invalid("tensor", "memory of " + scope.context().device(), "a tensor on " + device);
    }
    DType dtype = dtypeOf(tensor.scalar_type());
    int rank = (int) tensor.dim();
    long[] shape = new long[Math.max(1, rank)];
    long[] strides = shape.clone();
    shape[0] = 1;
    for (int d = 0; d < rank; d++) {
      shape[d] = tensor.size(d);
      strides[d] = tensor.stride(d);
    }
    long address = tensor.numel() == 0 ? 0 : tensor.data_ptr().address();
    // A tensor of our own on the same memory, which neither the end of a PointerScope nor
    // set_data()
    // on theirs touches.
    org.bytedeco.pytorch.Tensor share = tensor.detach().retainReference();
    try {
      return Tensor.adopt(scope, address, share::releaseReference, dtype, shape, strides);
    } catch (RuntimeException e) {
      share.releaseReference();
      throw e;
    }
  }

  private static Device deviceOf(org.bytedeco.pytorch.Device device) {
    if (device.is_cpu()) {
      return Device.CPU;
    }
    if (device.is_cuda()) {
      return Device.cuda(Math.max(0, device.index()));
    }
    throw invalid("device", "the CPU or a GPU of CUDA", device.str().getString());
  }

  private static DType dtypeOf(torch.ScalarType type) {
    return switch (type.intern()) {
      case Float -> DType.F32;
      case BFloat16 -> DType.BF16;
      case Half -> DType.F16;
      case Double -> DType.F64;
      case Int -> DType.I32;
      case Long -> DType.I64;
      case Byte, Bool -> DType.U8;
      default ->
          throw invalid(
              "tensor",
              "Float, BFloat16, Half, Double, Int, Long, Byte or Bool",
              type.intern().name());
    };
  }

  private static InvalidArgumentException invalid(String argument, String expected, String actual) {
    return new InvalidArgumentException("wrap", argument, expected, actual);
  }

  /** What a build of PyTorch for the CPU lacks. */
  private static final class Cuda {
    static long currentStream(int index) {
      var stream = torch_cuda.getCurrentCUDAStream((byte) index).stream();
      return stream == null ? 0 : stream.address(); // null: the legacy default stream
    }
  }
}

package dev.saccade;

import static dev.saccade.InvalidArgumentException.requirePresent;

import dev.saccade.binding.Saccade;
import java.lang.ref.Reference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Supplier;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.Pointer;

/**
 * One operation on its way into the library: the context's gate, the checks of its tensors, its
 * args struct, and the one place where a status becomes an exception. Tensors that were checked
 * stay reachable until the call is closed.
 */
final class Call implements AutoCloseable {
  private static final Set<DType> F32 = Set.of(DType.F32);
  private static final Set<DType> I32 = Set.of(DType.I32);
  private static final Set<DType> U8 = Set.of(DType.U8);

  /** An args struct and its size, which JavaCPP would look up in a shared map at every call. */
  private record Struct(Pointer pointer, long size) {}

  private final Context context;
  private final Map<Class<?>, Struct> structs = new HashMap<>();
  private final List<Tensor> tensors = new ArrayList<>();
  private final long[] bytes = new long[1];
  private Storage workspace;
  private String operation;

  Call(Context context) {
    this.context = context;
  }

  Call begin(String name) {
    operation = name;
    return this;
  }

  /** The args struct of an operation: reused native memory, cleared, its size filled in. */
  <A extends Pointer> A args(Class<A> type, Supplier<A> create) {
    Struct struct = structs.get(type);
    if (struct == null) {
      A created = create.get();
      created.retainReference(); // else the end of a PointerScope of the caller frees it
      struct = new Struct(created, created.sizeof());
      structs.put(type, struct);
    }
    Pointer.memset(struct.pointer(), 0, struct.size());
    new LongPointer(struct.pointer()).put(0, struct.size()); // struct_size, first in all of them
    return type.cast(struct.pointer());
  }

  // -----------------------------------------------------------------------------------------
  // checks

  /**
   * Checks that a tensor is there, open, of this context, of one of the types, and of the shape
   * (-1: any size).
   *
   * @return the tensor
   */
  Tensor check(String name, Tensor tensor, Set<DType> types, long... shape) {
    if (tensor == null) {
      throw invalid(name, expectation(types, shape), "null");
    }
    if (tensor.context() != context) {
      throw invalid(
          name, "a tensor of the context of the call", tensor.describe() + " of another context");
    }
    if (!tensor.isOpen()) {
      throw new ClosedException(operation + ": " + name + ": " + tensor.describe() + " is closed");
    }
    boolean fits = types.contains(tensor.dtype()) && tensor.rank() == shape.length;
    for (int i = 0; fits && i < shape.length; i++) {
      fits = shape[i] < 0 || shape[i] == tensor.shape(i);
    }
    if (!fits) {
      throw invalid(name, expectation(types, shape), tensor.describe());
    }
    keep(tensor);
    return tensor;
  }

  void keep(Tensor tensor) {
    tensors.add(tensor);
  }

  /** Checks as {@link #check}, and that the elements follow each other without gaps. */
  Tensor dense(String name, Tensor tensor, Set<DType> types, long... shape) {
    check(name, tensor, types, shape);
    if (!tensor.isDense()) {
      throw invalid(name, "a dense tensor", tensor.describe() + " with gaps between its rows");
    }
    return tensor;
  }

  /** Checks as {@link #dense}, whatever the shape. */
  Tensor ofAnyShape(String name, Tensor tensor, Set<DType> types) {
    if (tensor == null) {
      throw invalid(name, names(types) + " of any shape", "null");
    }
    return dense(name, tensor, types, tensor.shape());
  }

  /** Checks offsets [S + 1] as {@link #dense}. Returns S. */
  long sequences(String name, Tensor offsets, Set<DType> types) {
    long size = dense(name, offsets, types, -1).size();
    if (size == 0) {
      throw invalid(name, names(types) + "[1] or more", offsets.describe());
    }
    return size - 1;
  }

  /** Address of a dense f32 tensor. */
  long f32(String name, Tensor tensor, long... shape) {
    return dense(name, tensor, F32, shape).address();
  }

  /** Address of a dense i32 tensor. */
  long i32(String name, Tensor tensor, long... shape) {
    return dense(name, tensor, I32, shape).address();
  }

  /** Address of a dense u8 tensor. */
  long u8(String name, Tensor tensor, long... shape) {
    return dense(name, tensor, U8, shape).address();
  }

  /** Address of a dense f32 tensor, 0 for null. */
  long optionalF32(String name, Tensor tensor, long... shape) {
    return tensor == null ? 0 : f32(name, tensor, shape);
  }

  /** Address of a dense i32 tensor, 0 for null. */
  long optionalI32(String name, Tensor tensor, long... shape) {
    return tensor == null ? 0 : i32(name, tensor, shape);
  }

  /** Address of a dense u8 tensor, 0 for null. */
  long optionalU8(String name, Tensor tensor, long... shape) {
    return tensor == null ? 0 : u8(name, tensor, shape);
  }

  /**
   * Address of a tensor whose rows (and heads) may have strides; the last dimension never has gaps.
   */
  long strided(String name, Tensor tensor, Set<DType> types, long... shape) {
    return check(name, tensor, types, shape).address();
  }

  /**
   * The shape of an argument of an operation that is still to begin, by which it sizes its outputs:
   * checked as the operation will.
   */
  static long[] shapeOf(
      Scope scope, String operation, String name, Tensor tensor, Set<DType> types, long... shape) {
    requirePresent(operation, "scope", scope);
    try (Call call = scope.context().begin(operation)) {
      return call.check(name, tensor, types, shape).shape();
    }
  }

  InvalidArgumentException invalid(String name, String expected, String actual) {
    return new InvalidArgumentException(operation, name, expected, actual);
  }

  private static String expectation(Set<DType> types, long[] shape) {
    return names(types) + Arrays.toString(shape).replace("-1", "*");
  }

  private static String names(Set<DType> types) {
    return String.join(" or ", types.stream().sorted().map(DType::toString).toList());
  }

  // -------------------------------------------------------------------------------------------
  // launch

  /** Turns a status into its exception. */
  void invoke(int status) {
    if (status == Saccade.SACCADE_OK) {
      return;
    }
    String message = Saccade.saccade_error_message(context.handle()).getString();
    if (status == Saccade.SACCADE_OUT_OF_MEMORY) {
      throw context.memory().outOfMemory(message);
    }
    throw SaccadeException.of(status, message);
  }

  /** Where a workspace query writes its answer. */
  long[] bytes() {
    return bytes;
  }

  /**
   * A workspace of at least the bytes that the query just answered. Operations of a context run in
   * the order of its stream, or of a branch, so they share one.
   *
   * @param status the query's status
   */
  long workspace(int status) {
    invoke(status);
    if (bytes[0] == 0) {
      return 0;
    }
    if (workspace == null || workspace.bytes() < bytes[0]) {
      freeWorkspace();
      workspace = context.memory().allocate(null, bytes[0], "workspace of " + operation);
    }
    return workspace.address();
  }

  /**
   * Leaves the gate; until here every checked tensor, and with it foreign memory, stayed reachable.
   */
  @Override
  public void close() {
    for (Tensor tensor : tensors) {
      Reference.reachabilityFence(tensor.storage().owner());
    }
    tensors.clear();
    context.exit();
  }

  /** Gives the workspace back; the next operation that needs one allocates it anew. */
  void freeWorkspace() {
    if (workspace != null) {
      workspace.close();
      workspace = null;
    }
  }

  /** Frees all native memory. */
  void free() {
    freeWorkspace();
    structs.values().forEach(struct -> struct.pointer().close());
    structs.clear();
  }
}

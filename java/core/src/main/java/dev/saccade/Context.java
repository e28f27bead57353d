package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_context;
import dev.saccade.binding.saccade_context_args;
import dev.saccade.binding.saccade_cublas;
import java.lang.System.Logger.Level;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerPointer;

/**
 * A device, its threads or stream, and the memory of its tensors. All operations take one.
 *
 * <p>A context serves one thread at a time: a call from a second thread while a first is inside one
 * throws {@link ConcurrentUseException}. Threads may take turns. Use a context per thread to
 * compute in parallel; contexts share nothing.
 *
 * <p>Closing a context frees every tensor that was allocated from it.
 */
public final class Context implements AutoCloseable {
  private static final System.Logger LOG = System.getLogger("dev.saccade");

  /** With {@code -Ddev.saccade.debug=true} allocations record their place, for leak reports. */
  static final boolean DEBUG = Boolean.getBoolean("dev.saccade.debug");

  static {
    int library = Saccade.saccade_abi_version();
    if (library != Saccade.SACCADE_ABI_VERSION) {
      throw new UnsatisfiedLinkError(
          "libsaccade has ABI version "
              + library
              + ", these classes were built for "
              + Saccade.SACCADE_ABI_VERSION
              + ": use saccade-core and saccade-native of one version");
    }
  }

  private final Device device;

  /** The gate: the thread that is inside a call. The fields below it are used by that thread. */
  private final AtomicReference<Thread> user = new AtomicReference<>();

  private int depth;

  /** The call at each depth of nesting, made when first needed. */
  private final List<Call> calls = new ArrayList<>();

  /** Those of branches, whose workspaces are in use at the same time. */
  private final List<Call> branchCalls = new ArrayList<>();

  private boolean inBranch;

  /** Host memory that arrays pass through; null before the first does. */
  private BytePointer staging;

  private final MemoryPool memory;

  private final Set<Graph> graphs = new LinkedHashSet<>();

  /** Null when closed. Written inside the gate; volatile for the checks made outside it. */
  private volatile saccade_context handle;

  private Context(Builder builder) {
    device = builder.device;
    try (saccade_context_args args = new saccade_context_args();
        BytePointer isa = new BytePointer(builder.instructionSet);
        BytePointer error = new BytePointer(1024);
        PointerPointer<saccade_context> result = new PointerPointer<>(1)) {
      args.struct_size(args.sizeof());
      args.device(device.kind().code());
      args.device_index(device.index());
      // The JVM knows the quota of a container, which the processors' mask does not show.
      boolean all = builder.threads == 0 && device.kind() == Device.Kind.CPU;
      args.threads(all ? Runtime.getRuntime().availableProcessors() : builder.threads);
      args.instruction_set(isa);
      args.stream(builder.stream);
      args.own_stream(device.kind() == Device.Kind.CUDA && !builder.foreignStream ? 1 : 0);
      int status = Saccade.saccade_context_create(args, result, error, error.capacity());
      if (status != Saccade.SACCADE_OK) {
        throw SaccadeException.of(status, error.limit(0).getString()); // limit 0: up to the zero
      }
      handle = result.get(saccade_context.class, 0);
    }
    boolean gpu = device.kind() == Device.Kind.CUDA;
    memory =
        new MemoryPool(
            this, builder.cacheLimit >= 0 ? builder.cacheLimit : gpu ? Long.MAX_VALUE : 1L << 30);
  }

  /** A CPU context with one thread per processor that this process may use. */
  public static Context cpu() {
    return builder().build();
  }

  /**
   * A context of GPU {@code index}, with a stream of its own.
   *
   * @throws UnsupportedException if the native library was built without CUDA, or the machine has
   *     no GPU that it supports
   */
  public static Context cuda(int index) {
    return builder().device(Device.cuda(index)).build();
  }

  /** A context with chosen options. */
  public static Builder builder() {
    return new Builder();
  }

  /** One line on the native library: version, compiler, build type, backends. */
  public static String nativeBuild() {
    return Saccade.saccade_build_info().getString();
  }

  /** Options of a context. */
  public static final class Builder {
    private Device device = Device.CPU;
    private int threads;
    private String instructionSet = "";
    private long cacheLimit = -1;
    private long stream;
    private boolean foreignStream;

    private Builder() {}

    /** The device; the CPU by default. */
    public Builder device(Device device) {
      this.device = InvalidArgumentException.requirePresent("context", "device", device);
      return this;
    }

    /** CPU threads, the caller's included; 0, the default, for all that this process may use. */
    public Builder threads(int threads) {
      this.threads = threads;
      return this;
    }

    /**
     * CPU instruction set: {@code avx512}, {@code avx2} or {@code baseline}; by default the best
     * that the machine has. One that it lacks is an error.
     */
    public Builder instructionSet(String name) {
      this.instructionSet =
          InvalidArgumentException.requirePresent("context", "instruction_set", name);
      return this;
    }

    /**
     * GPU: launches go to this {@code cudaStream_t}, which stays its owner's; 0 is the legacy
     * default stream. By default the context has a stream of its own.
     */
    public Builder stream(long stream) {
      this.stream = stream;
      this.foreignStream = true;
      return this;
    }

    /**
     * Most bytes of freed memory that are kept for reuse, 0 or more; by default 1 GiB on the CPU,
     * all on a GPU.
     */
    public Builder cacheLimit(long bytes) {
      if (bytes < 0) {
        throw new InvalidArgumentException(
            "context", "cache_limit", "0 bytes or more", Long.toString(bytes));
      }
      this.cacheLimit = bytes;
      return this;
    }

    /**
     * Creates the context.
     *
     * @throws UnsupportedException if the build or the machine lacks the device or the instruction
     *     set
     * @throws InvalidArgumentException if an option is out of range or names nothing known
     * @throws OutOfMemoryException if the system gives no more memory or threads
     */
    public Context build() {
      return new Context(this);
    }
  }

  /** The device that tensors of this context live on. */
  public Device device() {
    return device;
  }

  /** CPU threads in use, the caller's included. */
  public int threads() {
    try (Call ignored = begin("threads")) {
      return Saccade.saccade_context_threads(handle);
    }
  }

  /** CPU instruction set in use: avx512, avx2 or baseline. */
  public String instructionSet() {
    try (Call ignored = begin("instruction_set")) {
      return Saccade.saccade_context_instruction_set(handle).getString();
    }
  }

  /**
   * GPU: the context's {@code cudaStream_t}.
   *
   * @throws UnsupportedException on the CPU
   */
  public long stream() {
    try (Call current = begin("stream")) {
      long[] stream = new long[1];
      current.invoke(Saccade.saccade_context_stream(handle, stream));
      return stream[0];
    }
  }

  /**
   * GPU: what this context does from now on happens after what {@code stream} was given before.
   *
   * @throws UnsupportedException on the CPU
   */
  public void waitFor(long stream) {
    try (Call current = begin("wait_for")) {
      current.invoke(Saccade.saccade_context_wait_for(handle, stream));
    }
  }

  /**
   * GPU: what {@code stream} is given from now on happens after what this context did before.
   *
   * @throws UnsupportedException on the CPU
   */
  public void signal(long stream) {
    try (Call current = begin("signal")) {
      current.invoke(Saccade.saccade_context_signal(handle, stream));
    }
  }

  /** Waits until all that this context was given is done; errors of the GPU appear here. */
  public void synchronize() {
    try (Call current = begin("synchronize")) {
      current.invoke(Saccade.saccade_context_synchronize(handle));
    }
  }

  /** {@link Graph#capture}. */
  Graph capture(Runnable work) {
    try (Call current = begin("graph")) {
      freeWorkspaces(); // those of the recording are the graph's
      current.invoke(Saccade.saccade_graph_begin(handle));
      memory.beginArena();
      long[] recorded = new long[1];
      try {
        work.run();
      } catch (Throwable e) {
        Saccade.saccade_graph_end(handle, recorded);
        Saccade.saccade_graph_destroy(handle, recorded[0]);
        freeWorkspaces();
        memory.release(memory.endArena());
        throw e;
      }
      int status = Saccade.saccade_graph_end(handle, recorded);
      freeWorkspaces();
      MemoryPool.Arena arena = memory.endArena();
      if (status != Saccade.SACCADE_OK) {
        memory.release(arena);
      }
      current.invoke(status);
      Graph graph = new Graph(this, arena, recorded[0]);
      graphs.add(graph);
      return graph;
    }
  }

  void forget(Graph graph) {
    graphs.remove(graph);
  }

  private void freeWorkspaces() {
    List.copyOf(calls).forEach(Call::freeWorkspace); // freeing nests, which may lengthen the list
    List.copyOf(branchCalls).forEach(Call::freeWorkspace);
  }

  /**
   * Does work that what comes after it need not wait for, until {@link #join}. While a {@link
   * Graph} is recorded the work is a branch of it, which a GPU does beside what comes after it,
   * where it has room; else, and on the CPU, all is done in order. Branches, of which there may be
   * several before a join, follow each other.
   *
   * <p>Before the join nothing may write what the work reads, nor use what it writes. Tensors may
   * be closed: their memory is not handed out again before the join.
   */
  public void fork(Runnable work) {
    try (Call current = begin("fork")) {
      if (inBranch) {
        work.run();
        return;
      }
      current.invoke(Saccade.saccade_branch_begin(handle));
      memory.beginBranch();
      inBranch = true;
      try {
        work.run();
      } finally {
        inBranch = false;
        Saccade.saccade_branch_end(handle);
      }
    }
  }

  /** What comes after this waits for all that was forked. */
  public void join() {
    try (Call current = begin("join")) {
      if (inBranch) {
        throw new InvalidArgumentException("join", "context", "a call outside a fork", "one in it");
      }
      current.invoke(Saccade.saccade_branch_join(handle));
      memory.endBranches();
    }
  }

  /** Host memory for the next copy to the GPU, which does not wait for what came before it. */
  Pointer staged(Call call, long bytes) {
    call.invoke(Saccade.saccade_memory_stage(handle, bytes, call.bytes()));
    long address = call.bytes()[0];
    return address == 0 ? staging(bytes) : new Storage.Address(address, bytes);
  }

  /**
   * Host memory for a copy to or from the device, until the next call of this: the same every time,
   * since fresh pages cost more than the copy.
   */
  BytePointer staging(long bytes) {
    if (staging == null || staging.capacity() < bytes) {
      freeStaging();
      staging = new BytePointer(bytes);
      staging.retainReference(); // else the end of a PointerScope of the caller frees it
    }
    return staging;
  }

  private void freeStaging() {
    if (staging != null) {
      staging.close();
      staging = null;
    }
  }

  /** A new scope: closing it frees the tensors that were allocated in it. */
  public Scope scope() {
    try (Call ignored = begin("scope")) {
      return new Scope(this);
    }
  }

  /**
   * Gives this context, of the CPU, its provider of matrix products.
   *
   * @param cblasSgemm address of a {@code cblas_sgemm} that may be called from several threads at
   *     once and starts none of its own; 0 takes it away
   * @throws UnsupportedException on a GPU: {@link #setCublas} is for it
   */
  public void setGemm(long cblasSgemm) {
    try (Call current = begin("context_set_gemm")) {
      current.invoke(Saccade.saccade_context_set_gemm(handle, cblasSgemm));
    }
  }

  /**
   * Addresses of functions of cuBLAS 12 or later.
   *
   * @param create {@code cublasCreate_v2}
   * @param destroy {@code cublasDestroy_v2}
   * @param setStream {@code cublasSetStream_v2}
   * @param setWorkspace {@code cublasSetWorkspace_v2}
   * @param gemmEx {@code cublasGemmEx}
   * @param statusString {@code cublasGetStatusString}
   */
  public record Cublas(
      long create,
      long destroy,
      long setStream,
      long setWorkspace,
      long gemmEx,
      long statusString) {}

  /**
   * Gives this context, of a GPU, its provider of matrix products: a handle of its own on its
   * stream, with 32 MiB of workspace, and as much for branches of graphs, so that products can be
   * captured and repeat bit for bit.
   *
   * @param functions of a library that stays loaded as long as the context is open; null takes the
   *     provider away
   * @throws InvalidArgumentException if an address is 0
   * @throws OutOfMemoryException if the GPU lacks the memory for the handle
   * @throws UnsupportedException on the CPU: {@link #setGemm} is for it
   */
  public void setCublas(Cublas functions) {
    try (Call current = begin("context_set_cublas")) {
      saccade_cublas args = null;
      if (functions != null) {
        args =
            current
                .args(saccade_cublas.class, saccade_cublas::new)
                .create(functions.create)
                .destroy(functions.destroy)
                .set_stream(functions.setStream)
                .set_workspace(functions.setWorkspace)
                .gemm_ex(functions.gemmEx)
                .status_string(functions.statusString);
      }
      current.invoke(Saccade.saccade_context_set_cublas(handle, args));
    }
  }

  /** Bytes of the live tensors that this context allocated. Any thread may ask at any time. */
  public long liveBytes() {
    return memory.liveBytes();
  }

  /** Bytes of the workspaces that operations left for the next ones; {@link #trim} frees them. */
  public long workspaceBytes() {
    try (Call ignored = begin("workspace_bytes")) {
      return memory.live().stream().filter(Storage::isWorkspace).mapToLong(Storage::bytes).sum();
    }
  }

  /** Gives cached memory of freed tensors, and workspaces, back to the system. */
  public void trim() {
    try (Call ignored = begin("trim")) {
      freeWorkspaces();
      memory.trim();
      freeStaging();
    }
  }

  /**
   * Frees every tensor of this context, then the context. With {@code -Ddev.saccade.debug=true}
   * tensors that no scope had freed are logged with the place of their allocation. Closing twice is
   * allowed.
   *
   * @throws ConcurrentUseException if another thread is inside a call: nothing is freed then
   */
  @Override
  public void close() {
    enter("close");
    try {
      if (handle == null) {
        return;
      }
      if (DEBUG) {
        leaks().forEach(leak -> LOG.log(Level.WARNING, "not closed before its context: " + leak));
      }
      List.copyOf(graphs).forEach(Graph::close);
      memory.close();
      calls.forEach(Call::free);
      branchCalls.forEach(Call::free);
      freeStaging();
      Saccade.saccade_context_destroy(handle);
      handle = null;
    } finally {
      exit();
    }
  }

  /**
   * The tensors that are allocated and not closed, largest first, one line each; with {@code
   * -Ddev.saccade.debug=true} the line names the place of the allocation. Empty for a closed
   * context.
   */
  public List<String> leaks() {
    enter("leaks");
    try {
      return memory.live().stream()
          .filter(storage -> !storage.isWorkspace())
          .map(Storage::describe)
          .toList();
    } finally {
      exit();
    }
  }

  boolean isOpen() {
    return handle != null;
  }

  saccade_context handle() {
    return handle;
  }

  MemoryPool memory() {
    return memory;
  }

  /**
   * Enters the gate of an open context; closing the result leaves it. Calls of one thread may nest,
   * each with structs and a workspace of its own.
   */
  Call begin(String operation) {
    enter(operation);
    if (handle == null) {
      exit();
      throw new ClosedException(operation + ": the context is closed");
    }
    List<Call> own = inBranch ? branchCalls : calls;
    while (own.size() < depth) {
      own.add(new Call(this));
    }
    return own.get(depth - 1).begin(operation);
  }

  /** Enters the gate, open or closed; {@link #exit} leaves it. */
  void enter(String operation) {
    Thread current = Thread.currentThread();
    Thread other = user.compareAndExchange(null, current);
    if (other != null && other != current) {
      throw new ConcurrentUseException(
          operation
              + ": the context is in use by thread \""
              + other.getName()
              + "\"; a context serves one thread at a time");
    }
    depth++;
  }

  /** Leaves the gate; other threads see all that was done inside. */
  void exit() {
    if (--depth == 0) {
      user.set(null);
    }
  }

  @Override
  public String toString() {
    return "Context[" + device + (handle == null ? ", closed]" : "]");
  }
}

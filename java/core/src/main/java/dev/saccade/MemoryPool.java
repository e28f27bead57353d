package dev.saccade;

import dev.saccade.binding.Saccade;
import java.util.ArrayDeque;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/**
 * Device memory of one context: freed blocks are kept by size and handed out again, since a
 * training step asks for the same sizes over and over and fresh pages cost more than the kernels
 * that fill them.
 *
 * <p>Used inside the context's gate only.
 */
final class MemoryPool {
  private static final int LISTED = 8;

  private final Context context;
  private final long cacheLimit;
  private final Map<Long, ArrayDeque<Long>> cache = new HashMap<>();
  private final Set<Storage> live = new LinkedHashSet<>();
  private final long[] result = new long[1];
  private long cachedBytes;

  /** Blocks that graphs replay on, by address. */
  private final Map<Long, Arena> arenas = new HashMap<>();

  /** Of the graph that is being recorded, null for none. */
  private Arena recording;

  /**
   * The memory of a graph: what was allocated, or freed, while it was recorded. Nobody else gets it
   * before the graph closes.
   */
  static final class Arena {
    private final Map<Long, ArrayDeque<Long>> free = new HashMap<>();

    /** What was freed while a branch of the graph might use it still. */
    private final Map<Long, ArrayDeque<Long>> pending = new HashMap<>();

    private boolean branched;

    void free(long size, long address) {
      (branched ? pending : free).computeIfAbsent(size, unused -> new ArrayDeque<>()).push(address);
    }

    void endBranches() {
      branched = false;
      pending.forEach((size, blocks) -> blocks.forEach(address -> free(size, address)));
      pending.clear();
    }
  }

  /** Of tensors, not of workspaces. Written inside the gate, read from anywhere. */
  private volatile long liveBytes;

  MemoryPool(Context context, long cacheLimit) {
    this.context = context;
    this.cacheLimit = cacheLimit;
  }

  /** Sizes are rounded up to one of four steps per power of two: at most a quarter is added. */
  private static long sizeClass(long bytes) {
    if (bytes <= 256) {
      return 256;
    }
    if (bytes > Long.MAX_VALUE / 2) {
      return bytes;
    }
    long step = Math.max(64, Long.highestOneBit(bytes - 1) >>> 2);
    return (bytes + step - 1) / step * step;
  }

  /**
   * @param scope whose tensor this is; null for a workspace
   * @param what named in leak and out-of-memory reports
   */
  Storage allocate(Scope scope, long bytes, String what) {
    try (Call call = context.begin("allocate")) {
      long address = bytes == 0 ? 0 : take(call, bytes, what);
      Storage storage = Storage.pooled(context, scope, address, bytes, what);
      live.add(storage);
      count(storage, bytes);
      return storage;
    }
  }

  private long take(Call call, long bytes, String what) {
    long size = sizeClass(bytes);
    ArrayDeque<Long> blocks = (recording == null ? cache : recording.free).get(size);
    if (blocks != null && !blocks.isEmpty()) {
      if (recording == null) {
        cachedBytes -= size;
      }
      return blocks.pop();
    }
    int status = Saccade.saccade_memory_allocate(context.handle(), size, result);
    if (status == Saccade.SACCADE_OUT_OF_MEMORY && recording == null) {
      trim();
      status = Saccade.saccade_memory_allocate(context.handle(), size, result);
    }
    if (status == Saccade.SACCADE_OUT_OF_MEMORY) {
      throw outOfMemory(
          "allocate: %s needs %d bytes, more than %s has left"
              .formatted(what, bytes, context.device()));
    }
    call.invoke(status);
    if (recording != null) {
      arenas.put(result[0], recording);
    }
    return result[0];
  }

  /** From here on memory comes from, and goes to, an arena of its own. */
  void beginArena() {
    recording = new Arena();
  }

  /** From here on memory that is freed while a graph is recorded is not handed out again. */
  void beginBranch() {
    if (recording != null) {
      recording.branched = true;
    }
  }

  /** From here on it is. */
  void endBranches() {
    if (recording != null) {
      recording.endBranches();
    }
  }

  Arena endArena() {
    endBranches();
    Arena arena = recording;
    recording = null;
    return arena;
  }

  /** Gives an arena's memory, but that of tensors which are still open, to all. */
  void release(Arena arena) {
    arenas.values().removeIf(owner -> owner == arena);
    arena.free.forEach((size, blocks) -> blocks.forEach(address -> keep(size, address)));
    arena.free.clear();
  }

  private void keep(long size, long address) {
    cache.computeIfAbsent(size, unused -> new ArrayDeque<>()).push(address);
    cachedBytes += size;
  }

  /**
   * @param problem what could not be had
   * @return an exception that also says what the memory is taken by
   */
  OutOfMemoryException outOfMemory(String problem) {
    String largest =
        live().stream()
            .limit(LISTED)
            .map(storage -> "\n  " + storage.describe())
            .collect(Collectors.joining());
    return new OutOfMemoryException(
        problem
            + "; live tensors: "
            + live.stream().filter(storage -> !storage.isWorkspace()).count()
            + ", "
            + liveBytes
            + " bytes"
            + (largest.isEmpty() ? "" : ", the largest:" + largest));
  }

  void free(Storage storage) {
    try (Call call = context.begin("free")) {
      live.remove(storage);
      count(storage, -storage.bytes());
      if (storage.address() == 0) {
        return;
      }
      long size = sizeClass(storage.bytes());
      if (recording != null) {
        arenas.putIfAbsent(storage.address(), recording);
      }
      Arena arena = arenas.get(storage.address());
      if (arena != null) {
        arena.free(size, storage.address());
        return;
      }
      // Another library may use exported memory still: the native side knows when it is free.
      if (storage.isExported() || size > cacheLimit - cachedBytes) {
        call.invoke(Saccade.saccade_memory_free(context.handle(), storage.address()));
      } else {
        keep(size, storage.address());
      }
    }
  }

  private void count(Storage storage, long bytes) {
    if (!storage.isWorkspace()) {
      liveBytes += bytes;
    }
  }

  /** Gives cached blocks back to the system. */
  void trim() {
    for (ArrayDeque<Long> blocks : cache.values()) {
      for (long address : blocks) {
        Saccade.saccade_memory_free(context.handle(), address);
      }
    }
    cache.clear();
    cachedBytes = 0;
  }

  /** Frees all, also what is in use. */
  void close() {
    live().forEach(Storage::close);
    trim();
  }

  /** What is allocated and not closed, largest first, of equals the oldest. */
  List<Storage> live() {
    return live.stream().sorted(Comparator.comparingLong(Storage::bytes).reversed()).toList();
  }

  long liveBytes() {
    return liveBytes;
  }

  /** Bytes of freed blocks that are kept. */
  long cachedBytes() {
    return cachedBytes;
  }
}

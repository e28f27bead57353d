package dev.saccade;

import dev.saccade.binding.Saccade;
import java.util.ArrayDeque;
import java.util.Collection;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/**
 * Device memory of one context: freed blocks are kept by size and handed out again, since a training step asks for the
 * same sizes over and over and fresh pages cost more than the kernels that fill them.
 *
 * <p>Used inside the context's gate only.
 */
final class MemoryPool {
  private static final int LISTED = 8;

  private final Context context;
  private final long cacheLimit;
  private final Map<Long, ArrayDeque<Long>> cache = new HashMap<>();
  private final Map<Storage, Boolean> live = new IdentityHashMap<>();
  private final long[] result = new long[1];
  private long cachedBytes;
  private long liveBytes;

  MemoryPool(Context context, long cacheLimit) {
    this.context = context;
    this.cacheLimit = cacheLimit;
  }

  /** Sizes are rounded up to one of four steps per power of two: at most a quarter is wasted. */
  private static long sizeClass(long bytes) {
    if (bytes <= 256) {
      return 256;
    }
    long step = Math.max(64, Long.highestOneBit(bytes - 1) >>> 2);
    return (bytes + step - 1) / step * step;
  }

  Storage allocate(long bytes, String what) {
    try (Call call = context.begin("allocate")) {
      long address = 0;
      if (bytes > 0) {
        ArrayDeque<Long> free = cache.get(sizeClass(bytes));
        if (free != null && !free.isEmpty()) {
          address = free.pop();
          cachedBytes -= sizeClass(bytes);
        } else {
          address = allocateNative(call, sizeClass(bytes), what);
        }
      }
      Storage storage = new Storage(context, address, bytes, true, null, what);
      live.put(storage, true);
      liveBytes += bytes;
      return storage;
    }
  }

  private long allocateNative(Call call, long bytes, String what) {
    int status = Saccade.saccade_memory_allocate(context.handle(), bytes, result);
    if (status == Saccade.SACCADE_OUT_OF_MEMORY) {
      trim();
      status = Saccade.saccade_memory_allocate(context.handle(), bytes, result);
    }
    if (status == Saccade.SACCADE_OUT_OF_MEMORY) {
      List<String> largest = context.leaks().stream().limit(LISTED).toList();
      throw new OutOfMemoryException(
          what
              + " needs "
              + bytes
              + " bytes on "
              + context.device()
              + "; live: "
              + liveBytes
              + " bytes"
              + (largest.isEmpty() ? "" : "\n  " + String.join("\n  ", largest)));
    }
    call.invoke(status);
    return result[0];
  }

  void free(Storage storage) {
    try (Call call = context.begin("free")) {
      live.remove(storage);
      liveBytes -= storage.bytes();
      if (storage.address() == 0) {
        return;
      }
      long size = sizeClass(storage.bytes());
      if (cachedBytes + size > cacheLimit) {
        call.invoke(Saccade.saccade_memory_free(context.handle(), storage.address()));
      } else {
        cache.computeIfAbsent(size, unused -> new ArrayDeque<>()).push(storage.address());
        cachedBytes += size;
      }
    }
  }

  void trim() {
    for (ArrayDeque<Long> free : cache.values()) {
      for (long address : free) {
        Saccade.saccade_memory_free(context.handle(), address);
      }
    }
    cache.clear();
    cachedBytes = 0;
  }

  void close() {
    trim();
    for (Storage storage : live.keySet()) {
      storage.markClosed();
      Saccade.saccade_memory_free(context.handle(), storage.address());
    }
    live.clear();
    liveBytes = 0;
  }

  Collection<Storage> live() {
    return List.copyOf(Objects.requireNonNull(live).keySet());
  }

  long liveBytes() {
    return liveBytes;
  }
}

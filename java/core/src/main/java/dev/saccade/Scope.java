package dev.saccade;

import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;

/**
 * Owns the tensors that are created in it: closing it frees them all, in the order of the context's
 * stream. Made for try-with-resources; closing twice is allowed, also after the context was closed.
 * A scope may outlive others and scopes may overlap; they do not nest.
 *
 * <p>A scope is used by one thread at a time, as its context is.
 */
public final class Scope implements AutoCloseable {
  private final Context context;
  private final Set<Storage> owned = new LinkedHashSet<>();
  private boolean open = true;

  Scope(Context context) {
    this.context = context;
  }

  /** The context whose memory this scope hands out. */
  public Context context() {
    return context;
  }

  /** Memory of the context's pool. */
  Storage allocate(long bytes, String what) {
    try (Call ignored = begin("allocate")) {
      Storage storage = context.memory().allocate(this, bytes, what);
      owned.add(storage);
      return storage;
    }
  }

  /**
   * Foreign memory, whose {@code owner} stays reachable until the storage closes, when {@code
   * release} runs; both may be null.
   */
  Storage adopt(long address, long bytes, Object owner, Runnable release, String what) {
    try (Call ignored = begin("wrap")) {
      Storage storage = Storage.foreign(this, address, bytes, owner, release, what);
      owned.add(storage);
      return storage;
    }
  }

  /** A storage closed before its scope. */
  void forget(Storage storage) {
    owned.remove(storage);
  }

  private Call begin(String operation) {
    Call call = context.begin(operation);
    if (!open) {
      call.close();
      throw new ClosedException(operation + ": the scope is closed and takes no new tensors");
    }
    return call;
  }

  /**
   * Frees the tensors of this scope, also where giving back adopted memory throws: the first such
   * exception is thrown at the end, with the others suppressed.
   *
   * @throws ConcurrentUseException if another thread is inside a call: nothing is freed then
   */
  @Override
  public void close() {
    context.enter("close");
    try {
      open = false;
      RuntimeException failure = null;
      for (Storage storage : List.copyOf(owned)) {
        try {
          storage.close();
        } catch (RuntimeException e) { // of a release: the others' memory is freed all the same
          if (failure == null) {
            failure = e;
          } else {
            failure.addSuppressed(e);
          }
        }
      }
      if (failure != null) {
        throw failure;
      }
    } finally {
      context.exit();
    }
  }

  @Override
  public String toString() {
    return "Scope[" + owned.size() + " tensors on " + context.device() + (open ? "]" : ", closed]");
  }
}

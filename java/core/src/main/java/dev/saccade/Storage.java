package dev.saccade;

import org.bytedeco.javacpp.Pointer;

/**
 * A range of memory that tensors view: allocated from a context's pool, or foreign and kept alive.
 * State changes inside the context's gate only.
 */
final class Storage {
  /** A JavaCPP pointer to an address, owning nothing. */
  static final class Address extends Pointer {
    Address(long address, long bytes) {
      this.address = address;
      this.limit = bytes;
      this.capacity = bytes;
    }
  }

  private static final StackWalker STACK = StackWalker.getInstance();

  private final Context context;
  private final long address;
  private final long bytes;
  private final boolean foreign;
  private final String what;

  /** Where the library was entered to allocate this; null unless debugging. */
  private final StackTraceElement site;

  /** The scope that closes this; null for workspaces, which the context closes. */
  private final Scope scope;

  /** What keeps foreign memory from being collected. */
  private Object owner;

  /** Gives foreign memory back; null: nobody waits for it. */
  private Runnable release;

  /** Whether another library was given this memory, and may use it after this closes. */
  private boolean exported;

  private boolean open = true;

  private Storage(
      Context context,
      Scope scope,
      long address,
      long bytes,
      boolean foreign,
      Object owner,
      String what) {
    this.context = context;
    this.scope = scope;
    this.address = address;
    this.bytes = bytes;
    this.foreign = foreign;
    this.owner = owner;
    this.what = what;
    this.site = Context.DEBUG && !foreign ? callSite() : null;
  }

  /** Memory of the context's pool. */
  static Storage pooled(Context context, Scope scope, long address, long bytes, String what) {
    return new Storage(context, scope, address, bytes, false, null, what);
  }

  /**
   * Memory of someone else; {@code owner}, which may be null, stays reachable until this closes,
   * and {@code release}, which may be null, runs then.
   */
  static Storage foreign(
      Scope scope, long address, long bytes, Object owner, Runnable release, String what) {
    Storage storage = new Storage(scope.context(), scope, address, bytes, true, owner, what);
    storage.release = release;
    return storage;
  }

  Context context() {
    return context;
  }

  long address() {
    return address;
  }

  long bytes() {
    return bytes;
  }

  Object owner() {
    return owner;
  }

  boolean isForeign() {
    return foreign;
  }

  void export() {
    exported = true;
  }

  boolean isExported() {
    return exported;
  }

  boolean isOpen() {
    return open && context.isOpen();
  }

  /** Whether this is memory that a context uses for itself. */
  boolean isWorkspace() {
    return scope == null;
  }

  /** Frees pooled memory, forgets foreign memory. Idempotent, also after the context was closed. */
  void close() {
    context.enter("close");
    try {
      if (!open) {
        return;
      }
      open = false;
      owner = null;
      if (scope != null) {
        scope.forget(this);
      }
      if (!foreign && context.isOpen()) {
        context.memory().free(this);
      }
      if (release != null) {
        release.run();
      }
    } finally {
      context.exit();
    }
  }

  /** What it is, how large and, when debugging, where it was allocated. */
  String describe() {
    return what + ", " + bytes + " bytes" + (site == null ? "" : ", allocated at " + site);
  }

  /** The innermost frame outside this package. */
  private static StackTraceElement callSite() {
    return STACK.walk(
        frames ->
            frames
                .filter(frame -> !isLibrary(frame.getClassName()))
                .findFirst()
                .map(StackWalker.StackFrame::toStackTraceElement)
                .orElse(null));
  }

  private static boolean isLibrary(String className) {
    return className
        .substring(0, className.lastIndexOf('.') + 1)
        .equals(Storage.class.getPackageName() + ".");
  }
}

package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.binding.saccade_context;
import java.lang.ref.Cleaner;
import java.lang.ref.PhantomReference;
import java.lang.ref.Reference;
import java.lang.ref.ReferenceQueue;
import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.javacpp.ShortPointer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
class WrapTest {
  private static final TokenLogProbs.Options PLAIN = TokenLogProbs.Options.DEFAULT;

  private final Context context = Context.cpu();
  private final Scope scope = context.scope();

  @AfterEach
  void close() {
    context.close();
  }

  private static void assertInvalid(ThrowingCallable use, String message) {
    assertThatThrownBy(use).isInstanceOf(InvalidArgumentException.class).hasMessage(message);
  }

  private static ByteBuffer direct(int bytes) {
    return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
  }

  // ------------------------------------------------------------------------------------------
  // address

  @Test
  void addresses() {
    Tensor tensor = Tensor.of(scope, new float[] {1, 2, 3, 4});
    Tensor wrapped = Tensor.wrap(scope, tensor.address() + 4, null, DType.F32, 3);
    assertThat(wrapped.address()).isEqualTo(tensor.address() + 4);
    assertThat(wrapped.toFloats()).containsExactly(2, 3, 4);
    wrapped.copyFrom(new float[] {5, 6, 7});
    assertThat(tensor.toFloats()).containsExactly(1, 5, 6, 7);
    long live = context.liveBytes();
    wrapped.close();
    assertThat(context.liveBytes()).as("foreign memory is not counted").isEqualTo(live);
    assertThat(tensor.toFloats()).as("nor freed").containsExactly(1, 5, 6, 7);
    assertThatThrownBy(wrapped::toFloats).isInstanceOf(ClosedException.class);
  }

  @Test
  void addressesThatCannotBe() {
    assertInvalid(
        () -> Tensor.wrap(scope, 0, null, DType.F32, 3),
        "wrap: address: expected an address for f32[3], got null");
    assertInvalid(
        () -> Tensor.wrap(scope, 0x1002, null, DType.F32, 3),
        "wrap: address: expected alignment to 4 bytes for f32[3], got 0x1002");
    assertInvalid(
        () -> Tensor.wrap(scope, 0x1004, null, DType.F64, 3),
        "wrap: address: expected alignment to 8 bytes for f64[3], got 0x1004");
    assertInvalid(
        () -> Tensor.wrap(scope, 0x1000, null, DType.F64, -3),
        "wrap: shape: expected dimensions of 0 or more, got [-3]");
    assertInvalid(
        () -> Tensor.wrap(scope, 0x1000, null, null, 3), "wrap: dtype: expected a value, got null");
    assertInvalid(
        () -> Tensor.wrap(null, 0x1000, null, DType.U8, 3),
        "wrap: scope: expected a value, got null");
    assertThat(Tensor.wrap(scope, 0, null, DType.F32, 0, 3).toFloats()).isEmpty();
  }

  // ------------------------------------------------------------------------------------------
  // pointer

  @Test
  void pointersCountFromTheirPosition() {
    try (FloatPointer pointer = new FloatPointer(1, 2, 3, 4, 5, 6)) {
      Tensor whole = Tensor.wrap(scope, pointer, DType.F32, 2, 3);
      Tensor tail = Tensor.wrap(scope, new FloatPointer(pointer).position(2), DType.F32, 4);
      assertThat(tail.toFloats()).containsExactly(3, 4, 5, 6);
      pointer.put(2, 30);
      assertThat(tail.toFloats()).containsExactly(30, 4, 5, 6);
      tail.copyFrom(new float[] {-3, -4, -5, -6});
      assertThat(pointer.get(5)).isEqualTo(-6);
      assertThat(whole.toFloats()).containsExactly(1, 2, -3, -4, -5, -6);
      assertThat(pointer.position()).isZero();
      assertInvalid(
          () -> Tensor.wrap(scope, new FloatPointer(pointer).position(2), DType.F32, 5),
          "wrap: pointer: expected 20 bytes for f32[5], got 16 bytes from its position");
      assertInvalid(
          () -> Tensor.wrap(scope, new FloatPointer(pointer).limit(3), DType.F32, 4),
          "wrap: pointer: expected 16 bytes for f32[4], got 12 bytes from its position");
      whole.close();
    }
  }

  @Test
  void pointersOfAnotherTypeCountBytes() {
    try (BytePointer bytes = new BytePointer(12);
        ShortPointer shorts = new ShortPointer((short) 0x3c00, (short) 0xc000)) {
      assertThat(Tensor.wrap(scope, bytes, DType.F32, 3).zero().toFloats()).containsOnly(0);
      assertInvalid(
          () -> Tensor.wrap(scope, bytes, DType.F32, 4),
          "wrap: pointer: expected 16 bytes for f32[4], got 12 bytes from its position");
      assertThatThrownBy(() -> Tensor.wrap(scope, new BytePointer(bytes).position(1), DType.F32, 2))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessageStartingWith(
              "wrap: pointer: expected alignment to 4 bytes for f32[2], got 0x");
      assertThat(Tensor.wrap(scope, shorts, DType.F16, 2).toFloats()).containsExactly(1, -2);
      // a pointer that does not know its size, and one whose type has none
      Pointer unknown = new Pointer(bytes).limit(0);
      assertThat(Tensor.wrap(scope, unknown, DType.F32, 3).toFloats()).containsOnly(0);
      assertThat(Tensor.wrap(scope, new saccade_context(unknown), DType.F32, 3).toFloats())
          .containsOnly(0);
    }
  }

  @Test
  void nullPointers() {
    assertInvalid(
        () -> Tensor.wrap(scope, (Pointer) null, DType.F32, 1),
        "wrap: pointer: expected a value, got null");
    assertInvalid(
        () -> Tensor.wrap(scope, new FloatPointer((Pointer) null), DType.F32, 1),
        "wrap: pointer: expected an address for f32[1], got null");
    assertInvalid(
        () -> Tensor.wrap(scope, new FloatPointer((Pointer) null).position(8), DType.F32, 1),
        "wrap: pointer: expected an address for f32[1], got null");
  }

  // -------------------------------------------------------------------------------------------
  // buffer

  @Test
  void buffersCountFromTheirPosition() {
    ByteBuffer buffer = direct(32);
    FloatBuffer floats = buffer.asFloatBuffer();
    floats.put(new float[] {0, 1, 2, 3, 4, 5, 6, 7});
    Tensor whole = Tensor.wrap(scope, buffer, DType.F32, 2, 4);
    buffer.position(8);
    Tensor positioned = Tensor.wrap(scope, buffer, DType.F32, 6);
    assertThat(positioned.toFloats()).containsExactly(2, 3, 4, 5, 6, 7);
    Tensor sliced = Tensor.wrap(scope, buffer.slice().position(4), DType.F32, 5);
    assertThat(sliced.toFloats()).containsExactly(3, 4, 5, 6, 7);
    assertThat(sliced.address()).isEqualTo(whole.address() + 12);
    Tensor duplicate = Tensor.wrap(scope, buffer.duplicate().limit(12), DType.F32, 1);
    assertThat(duplicate.item()).isEqualTo(2);
    floats.put(7, 70);
    assertThat(whole.rows(1, 2).toFloats()).containsExactly(4, 5, 6, 70);
    sliced.zero();
    assertThat(floats.get(3)).isZero();
    assertThat(floats.get(2)).isEqualTo(2);
    assertThat(buffer.position()).as("unchanged").isEqualTo(8);
    assertThat(buffer.limit()).as("unchanged").isEqualTo(32);
  }

  @Test
  void buffersThatDoNotFit() {
    ByteBuffer buffer = direct(32);
    assertInvalid(
        () -> Tensor.wrap(scope, buffer, DType.F32, 3, 3),
        "wrap: buffer: expected 36 bytes for f32[3, 3], got 32 bytes from its position");
    assertInvalid(
        () -> Tensor.wrap(scope, buffer.duplicate().position(4), DType.F64, 4),
        "wrap: buffer: expected 32 bytes for f64[4], got 28 bytes from its position");
    assertInvalid(
        () -> Tensor.wrap(scope, buffer, DType.U8, 1L << 40),
        "wrap: buffer: expected 1099511627776 bytes for u8[1099511627776], got 32 bytes from its"
            + " position");
    assertInvalid(
        () -> Tensor.wrap(scope, ByteBuffer.allocate(32), DType.F32, 1),
        "wrap: buffer: expected a direct buffer, got a heap buffer");
    assertInvalid(
        () -> Tensor.wrap(scope, buffer.asReadOnlyBuffer(), DType.F32, 1),
        "wrap: buffer: expected a writable buffer, got a read-only one");
    assertInvalid(
        () -> Tensor.wrap(scope, (Buffer) null, DType.F32, 1),
        "wrap: buffer: expected a value, got null");
    assertThatThrownBy(() -> Tensor.wrap(scope, buffer.position(2), DType.F32, 1))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessageStartingWith("wrap: buffer: expected alignment to 4 bytes for f32[1], got 0x");
    assertThat(Tensor.wrap(scope, direct(0), DType.F32, 0).size()).isZero();
  }

  @Test
  void buffersOfOtherTypes() {
    ByteBuffer memory = direct(64);
    long start = Tensor.wrap(scope, memory, DType.U8, 64).address();
    List<Buffer> views =
        List.of(
            memory.asCharBuffer().position(4),
            memory.asShortBuffer().position(4),
            memory.asIntBuffer().position(2),
            memory.asFloatBuffer().position(2),
            memory.asLongBuffer().position(1),
            memory.asDoubleBuffer().position(1));
    for (Buffer view : views) {
      Tensor tensor = Tensor.wrap(scope, view, DType.F32, 14);
      assertThat(tensor.address()).as("%s", view).isEqualTo(start + 8);
      assertInvalid(
          () -> Tensor.wrap(scope, view, DType.F32, 15),
          "wrap: buffer: expected 60 bytes for f32[15], got 56 bytes from its position");
      assertThat(Tensor.wrap(scope, view.slice(), DType.F32, 14).address()).isEqualTo(start + 8);
    }
    FloatBuffer floats = memory.asFloatBuffer();
    floats.put(new float[] {1, 2, 3, 4});
    assertThat(Tensor.wrap(scope, floats, DType.F32, 12).rows(0, 1).item())
        .as("what was put lies before the position")
        .isZero();
    assertThat(Tensor.wrap(scope, floats.flip(), DType.F32, 2, 2).toFloats())
        .containsExactly(1, 2, 3, 4);
    ByteOrder other =
        ByteOrder.nativeOrder() == ByteOrder.LITTLE_ENDIAN
            ? ByteOrder.BIG_ENDIAN
            : ByteOrder.LITTLE_ENDIAN;
    ByteBuffer foreign = direct(16).order(other);
    assertInvalid(
        () -> Tensor.wrap(scope, foreign.asFloatBuffer(), DType.F32, 4),
        "wrap: buffer: expected the order " + ByteOrder.nativeOrder() + ", got " + other);
    assertThat(Tensor.wrap(scope, foreign, DType.F32, 4).toFloats()).containsOnly(0);
  }

  // ----------------------------------------------------------------------------------------
  // strides

  /** q of a fused projection [rows, 3·heads·dim], and gaps between heads too. */
  @Test
  void gapsBetweenRowsAndHeads() {
    float[] values = new float[2 * 3 * 8];
    for (int i = 0; i < values.length; i++) {
      values[i] = i;
    }
    Tensor fused = Tensor.of(scope, values, 2, 3, 8);
    long address = fused.address() + 8 * Float.BYTES;
    Tensor rows =
        Tensor.wrap(scope, address, fused, DType.F32, new long[] {2, 8}, new long[] {24, 1});
    assertThat(rows.stride(0)).isEqualTo(24);
    assertThat(rows.isDense()).isFalse();
    assertThat(rows.toFloats())
        .containsExactly(8, 9, 10, 11, 12, 13, 14, 15, 32, 33, 34, 35, 36, 37, 38, 39);
    long[] shape = {2, 2, 3};
    long[] strides = {24, 4, 1};
    Tensor heads = Tensor.wrap(scope, address, fused, DType.F32, shape, strides);
    assertThat(heads.toFloats()).containsExactly(8, 9, 10, 12, 13, 14, 32, 33, 34, 36, 37, 38);
    heads.copyFrom(new float[] {-1, -1, -1, -2, -2, -2, -3, -3, -3, -4, -4, -4});
    assertThat(Arrays.copyOfRange(fused.toFloats(), 8, 16))
        .containsExactly(-1, -1, -1, 11, -2, -2, -2, 15);
    heads.zero();
    assertThat(rows.toFloats()).containsExactly(0, 0, 0, 11, 0, 0, 0, 15, 0, 0, 0, 35, 0, 0, 0, 39);
    // where the size is 1, or nothing is there, strides do not matter
    Tensor one =
        Tensor.wrap(
            scope, address, null, DType.F32, new long[] {1, 3, 1}, new long[] {-5, 3, 1 << 20});
    assertThat(one.toFloats()).containsExactly(0, 11, 0);
    assertThat(one.stride(2)).isEqualTo(1);
    assertThat(one.stride(0)).isEqualTo(7);
    assertThat(
            Tensor.wrap(scope, 0, null, DType.F32, new long[] {0, 3}, new long[] {0, 0}).toFloats())
        .isEmpty();
  }

  @Test
  void adoptedMemoryIsGivenBackOnce() {
    AtomicInteger given = new AtomicInteger();
    Tensor memory = Tensor.of(scope, new float[] {1, 2, 3, 4, 5, 6}, 2, 3);
    long[] shape = {2, 2};
    long[] strides = {3, 1};
    Tensor tensor =
        Tensor.adopt(scope, memory.address(), given::incrementAndGet, DType.F32, shape, strides);
    assertThat(tensor.toFloats()).containsExactly(1, 2, 4, 5);
    assertThat(given).hasValue(0);
    tensor.rows(0, 1).close();
    tensor.close();
    assertThat(given).hasValue(1);
    Tensor.adopt(scope, memory.address(), given::incrementAndGet, DType.F32, shape, strides);
    assertInvalid(
        () -> Tensor.adopt(scope, 0, given::incrementAndGet, DType.F32, shape, strides),
        "wrap: address: expected an address for f32[2, 2], got null");
    scope.close();
    context.close();
    assertThat(given).hasValue(2);
  }

  @Test
  void whatCannotBeGivenBackKeepsNothingElse() {
    AtomicInteger given = new AtomicInteger();
    Tensor memory = Tensor.of(scope, new float[] {1, 2}, 2);
    Scope inner = context.scope();
    for (int i = 0; i < 3; i++) {
      int number = i;
      Runnable release =
          () -> {
            given.incrementAndGet();
            if (number < 2) {
              throw new IllegalStateException("cannot give back " + number);
            }
          };
      Tensor.adopt(inner, memory.address(), release, DType.F32, new long[] {2}, null);
    }
    assertThatThrownBy(inner::close)
        .isInstanceOf(IllegalStateException.class)
        .hasSuppressedException(new IllegalStateException("cannot give back 1"));
    assertThat(given).hasValue(3);
    inner.close();
    assertThat(given).hasValue(3);
  }

  @Test
  void stridesThatTensorsLack() {
    String[][] cases = {
      {"1 in dimension 1 of f32[2, 3]", "[1, 2]"},
      {"3 or more in dimension 0 of f32[2, 3]", "[2, 1]"},
      {"3 or more in dimension 0 of f32[2, 3]", "[0, 1]"},
      {"3 or more in dimension 0 of f32[2, 3]", "[-3, 1]"},
      {"2 for f32[2, 3]", "[1]"},
      {"fewer than 2^63 bytes for f32[2, 3]", "[9223372036854775807, 1]"},
    };
    for (String[] expected : cases) {
      long[] strides =
          Arrays.stream(expected[1].replaceAll("[\\[\\] ]", "").split(","))
              .mapToLong(Long::parseLong)
              .toArray();
      assertInvalid(
          () -> Tensor.wrap(scope, 64, null, DType.F32, new long[] {2, 3}, strides),
          "wrap: strides: expected " + expected[0] + ", got " + expected[1]);
    }
    assertThat(Tensor.wrap(scope, 64, null, DType.F32, new long[] {2, 3}, null).isDense()).isTrue();
    assertInvalid(
        () -> Tensor.wrap(scope, 66, null, DType.F32, new long[] {2, 3}, new long[] {4, 1}),
        "wrap: address: expected alignment to 4 bytes for f32[2, 3], got 0x42");
    assertInvalid(
        () -> Tensor.wrap(scope, 0, null, DType.F32, new long[] {2, 3}, new long[] {4, 1}),
        "wrap: address: expected an address for f32[2, 3], got null");
  }

  // --------------------------------------------------------------------------------------
  // collections

  /** A buffer that only the tensor refers to, and a reference that tells when it is collected. */
  private static Tensor wrapFresh(
      Scope scope, ReferenceQueue<Object> queue, PhantomReference<?>[] reference) {
    ByteBuffer buffer = direct(64);
    buffer.asFloatBuffer().put(new float[] {1, 2, 3, 4});
    reference[0] = new PhantomReference<>(buffer, queue);
    return Tensor.wrap(scope, buffer, DType.F32, 1, 4);
  }

  private static void collect() throws InterruptedException {
    for (int i = 0; i < 5; i++) {
      System.gc();
      Thread.sleep(10);
    }
  }

  private static Reference<?> awaitCollection(ReferenceQueue<Object> queue)
      throws InterruptedException {
    for (int i = 0; i < 100; i++) {
      System.gc();
      Reference<?> collected = queue.remove(50);
      if (collected != null) {
        return collected;
      }
    }
    return null;
  }

  @Test
  void aBufferLivesAsLongAsItsTensorIsOpen() throws InterruptedException {
    ReferenceQueue<Object> queue = new ReferenceQueue<>();
    PhantomReference<?>[] reference = {null};
    Tensor tensor = wrapFresh(scope, queue, reference);
    Tensor view = tensor.columns(1, 3);
    tensor = null;
    collect();
    assertThat(queue.poll()).as("a view keeps it").isNull();
    assertThat(view.toFloats()).containsExactly(2, 3);
    view.close();
    assertThat(awaitCollection(queue))
        .as("though scope and tensor are open")
        .isSameAs(reference[0]);
    assertThat(view.isOpen()).isFalse();
    assertThat(scope).hasToString("Scope[0 tensors on cpu]");
  }

  @Test
  void aBufferLivesUntilItsScopeCloses() throws InterruptedException {
    ReferenceQueue<Object> queue = new ReferenceQueue<>();
    PhantomReference<?>[] reference = {null};
    try (Scope inner = context.scope()) {
      wrapFresh(inner, queue, reference);
      collect();
      assertThat(queue.poll()).isNull();
    }
    assertThat(awaitCollection(queue)).isSameAs(reference[0]);
  }

  /** What a context keeps for its next calls is not the caller's to free. */
  @Test
  void operationsInPointerScopesOfJavaCpp() {
    for (int i = 0; i < 3; i++) {
      try (PointerScope pointers = new PointerScope();
          FloatPointer memory = new FloatPointer(1, 2, 3)) {
        Tensor x = Tensor.wrap(scope, memory, DType.F32, 1, 3);
        Tensor y = Tensor.zeros(scope, DType.F32, 1, 3);
        Axpby.apply(context, 2, x, 0, y);
        assertThat(y.toFloats()).containsExactly(2, 4, 6);
        assertThat(Tensor.fromDlpack(scope, y.toDlpack()).toFloats()).containsExactly(2, 4, 6);
        x.close();
      }
      for (int j = 0; j < 100; j++) {
        new BytePointer(200).fill(-1).close(); // would get the memory
      }
    }
  }

  /** A scope that is forgotten, not closed, keeps nothing; a call does until it ends. */
  @Test
  void aBufferLivesThroughACall() throws InterruptedException {
    ReferenceQueue<Object> queue = new ReferenceQueue<>();
    PhantomReference<?>[] reference = {null};
    try (Call call = context.begin("op")) {
      call.f32("x", wrapFresh(context.scope(), queue, reference), 1, 4);
      collect();
      assertThat(queue.poll()).isNull();
    }
    assertThat(awaitCollection(queue)).isSameAs(reference[0]);
  }

  @Test
  void aPointerIsKeptToo() throws InterruptedException {
    AtomicBoolean cleaned = new AtomicBoolean();
    Tensor tensor = wrapPointer(cleaned);
    collect();
    assertThat(cleaned).isFalse();
    assertThat(tensor.toFloats()).containsExactly(1, 2);
    tensor.close();
    for (int i = 0; i < 100 && !cleaned.get(); i++) {
      System.gc();
      Thread.sleep(20);
    }
    assertThat(cleaned).isTrue();
  }

  private Tensor wrapPointer(AtomicBoolean cleaned) {
    FloatPointer pointer = new FloatPointer(1, 2);
    Cleaner.create().register(pointer, () -> cleaned.set(true));
    return Tensor.wrap(scope, pointer, DType.F32, 2);
  }

  /**
   * Operations on memory that nothing but their arguments refers to, while another thread collects:
   * a buffer freed too early would be filled by the next, or unmapped.
   */
  @Test
  void operationsUnderForcedCollections() throws InterruptedException {
    AtomicBoolean stop = new AtomicBoolean();
    AtomicInteger collections = new AtomicInteger();
    Thread collector =
        new Thread(
            () -> {
              while (!stop.get()) {
                System.gc();
                collections.incrementAndGet();
              }
            });
    collector.start();
    try {
      for (int i = 0; i < 100 || collections.get() < 50; i++) {
        try (Scope results = context.scope()) {
          int rows = 16;
          int vocabulary = 5000;
          float peak = i % 10;
          Tensor logProb = Tensor.empty(results, DType.F32, rows);
          TokenLogProbs.forward(
              context,
              orphan(peak, rows, vocabulary),
              orphanTargets(rows),
              PLAIN,
              new TokenLogProbs.Outputs(logProb, null, null));
          double expected = peak - Math.log(Math.exp(peak) + vocabulary - 1);
          for (float value : logProb.toFloats()) {
            assertThat((double) value).isBetween(expected - 1e-4, expected + 1e-4);
          }
          assertThat(orphanTargets(rows).toInts()).containsOnly(0);
          assertThat(orphan(peak, 2, 1000).rows(1, 2).columns(0, 2).toFloats())
              .containsExactly(peak, 0);
          assertThat(
                  Tensor.empty(results, DType.F32, 2, 1000)
                      .copyFrom(orphan(peak, 2, 1000))
                      .rows(0, 1)
                      .toFloats()[0])
              .isEqualTo(peak);
        }
      }
    } finally {
      stop.set(true);
      collector.join();
    }
  }

  /** Rows of a peak at 0 and zeros, in a buffer and a scope that are both forgotten. */
  private Tensor orphan(float peak, int rows, int vocabulary) {
    ByteBuffer buffer = direct(rows * vocabulary * 4);
    FloatBuffer floats = buffer.asFloatBuffer();
    for (int r = 0; r < rows; r++) {
      floats.put(r * vocabulary, peak);
    }
    return Tensor.wrap(context.scope(), buffer, DType.F32, rows, vocabulary);
  }

  private Tensor orphanTargets(int rows) {
    return Tensor.wrap(context.scope(), direct(rows * 4), DType.I32, rows);
  }
}

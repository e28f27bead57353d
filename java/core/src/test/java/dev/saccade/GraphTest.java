package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

/** Recorded operations give what the operations give, with what their scalars hold by then. */
class GraphTest {
  private static Tensor floats(Scope scope, long seed, long... shape) {
    int n = 1;
    for (long size : shape) {
      n *= (int) size;
    }
    float[] x = new float[n];
    Random random = new Random(seed);
    for (int i = 0; i < n; i++) {
      x[i] = (float) random.nextGaussian();
    }
    return Tensor.of(scope, x, shape);
  }

  private static void set(Tensor tensor, float value) {
    tensor.copyFrom(new float[] {value});
  }

  @Test
  void aCpuRecordsNothing() {
    try (Context context = Context.cpu()) {
      assertThatThrownBy(() -> Graph.capture(context, () -> {}))
          .isInstanceOf(UnsupportedException.class)
          .hasMessage("graph_begin: context: expected a CUDA context, got a CPU context");
    }
  }

  @Test
  @OnGpu
  void theOptimizerReadsItsScalarsInEveryRun() {
    int n = 1000;
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      Tensor lr = floats(scope, 1, 1);
      Tensor scale = floats(scope, 2, 1);
      Tensor step = Tensor.of(scope, new long[] {0}, new long[] {1});
      Tensor grad = floats(scope, 3, n);
      List<Tensor[]> states = new ArrayList<>();
      for (int i = 0; i < 2; i++) {
        states.add(
            new Tensor[] {
              floats(scope, 4, n),
              Tensor.zeros(scope, DType.F32, n),
              Tensor.zeros(scope, DType.F32, n)
            });
      }
      var scalars = AdamW.Scalars.NONE.withLr(lr).withGradScale(scale).withStep(step);
      var options = AdamW.Options.of(0.5f);
      Tensor[] replayed = states.get(0);
      try (Graph graph =
          Graph.capture(
              context,
              () ->
                  AdamW.step(
                      context,
                      List.of(
                          new AdamW.Parameter(
                              replayed[0], grad, replayed[1], replayed[2], null, 0.1f)),
                      options,
                      1,
                      scalars))) {
        for (int i = 1; i <= 3; i++) {
          set(lr, 0.01f * i);
          set(scale, 1f / i);
          step.copyFrom(new long[] {i});
          graph.launch();
          Tensor[] plain = states.get(1);
          AdamW.step(
              context,
              List.of(new AdamW.Parameter(plain[0], grad, plain[1], plain[2], null, 0.1f)),
              AdamW.Options.of(0.01f * i).withGradScale(1f / i),
              i);
          for (int t = 0; t < 3; t++) {
            assertThat(replayed[t].toFloats()).as("step " + i).containsExactly(plain[t].toFloats());
          }
        }
      }
    }
  }

  @Test
  @OnGpu
  void samplesFollowTheOffset() {
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      Tensor logits = floats(scope, 5, 64, 1000);
      Tensor offset = Tensor.of(scope, new long[] {0}, new long[] {1});
      var options = new SampleTokens.Options(1f, 7, 0);
      Tensor[] tokens = new Tensor[1];
      try (Graph graph =
          Graph.capture(
              context,
              () ->
                  tokens[0] =
                      SampleTokens.sample(scope, logits, options.withOffsetScalar(offset)))) {
        for (long i = 0; i < 3; i++) {
          offset.copyFrom(new long[] {i});
          graph.launch();
          Tensor plain = SampleTokens.sample(scope, logits, new SampleTokens.Options(1f, 7, i));
          assertThat(tokens[0].toInts()).containsExactly(plain.toInts());
        }
      }
    }
  }

  @Test
  @OnGpu
  void attentionFollowsTheLengthOfItsCache() {
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      int room = 100;
      Tensor q = floats(scope, 6, 2, 4, 32);
      Tensor k = floats(scope, 7, 2 * room, 2, 32);
      Tensor v = floats(scope, 8, 2 * room, 2, 32);
      Tensor offsetsQ = Tensor.of(scope, new int[] {0, 1, 2});
      Tensor offsetsK = Tensor.of(scope, new int[] {0, room, 2 * room});
      Tensor lengths = Tensor.of(scope, new int[] {0, 0});
      var input = new Attention.Input(q, k, v, offsetsQ, offsetsK, lengths, room, 0.2f);
      Tensor o = Tensor.empty(scope, DType.F32, 2, 4, 32);
      Tensor plain = Tensor.empty(scope, DType.F32, 2, 4, 32);
      try (Graph graph = Graph.capture(context, () -> Attention.forward(context, input, o, null))) {
        for (int length : new int[] {1, 64, 65, room}) {
          lengths.copyFrom(new int[] {length, length / 2 + 1});
          graph.launch();
          Attention.forward(context, input, plain, null);
          assertThat(o.toFloats()).containsExactly(plain.toFloats());
        }
      }
    }
  }

  @Test
  @OnGpu
  void memoryOfARecordingIsItsOwnUntilItCloses() {
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      Tensor x = floats(scope, 9, 1 << 16);
      Tensor y = Tensor.zeros(scope, DType.F32, 1 << 16);
      try (Graph graph =
          Graph.capture(
              context,
              () -> {
                try (Scope inner = context.scope()) {
                  Tensor between = Tensor.zeros(inner, DType.F32, 1 << 16);
                  Axpby.apply(context, 2f, x, 0f, between);
                  Axpby.apply(context, 1f, between, 0f, y);
                }
              })) {
        Tensor other = floats(scope, 10, 1 << 16);
        float[] before = other.toFloats();
        graph.launch();
        assertThat(other.toFloats()).containsExactly(before);
        float[] want = x.toFloats();
        for (int i = 0; i < want.length; i++) {
          want[i] *= 2;
        }
        assertThat(y.toFloats()).containsExactly(want);
      }
    }
  }

  /** y = 2x, then z = y - x, with y of an inner scope, as branches or in order. */
  private static void forked(Context context, Tensor x, Tensor z, Tensor w) {
    context.fork(
        () -> {
          try (Scope inner = context.scope()) {
            Tensor y = Tensor.zeros(inner, DType.F32, x.shape());
            Axpby.apply(context, 2f, x, 0f, y);
            Axpby.apply(context, 1f, y, 0f, z);
          }
        });
    for (int i = 0; i < 8; i++) {
      try (Scope inner = context.scope()) {
        // Of the same size as y: the branch may still be at work on its memory.
        Tensor other = Tensor.zeros(inner, DType.F32, x.shape());
        Axpby.apply(context, 3f, x, 0f, other);
        Axpby.apply(context, 1f, other, i == 0 ? 0f : 1f, w);
      }
    }
    context.fork(() -> Axpby.apply(context, -1f, x, 1f, z));
    context.join();
    Axpby.apply(context, 1f, z, 1f, w);
  }

  private static void assertForked(Tensor x, Tensor z, Tensor w) {
    float[] from = x.toFloats();
    float[] want = new float[from.length];
    for (int i = 0; i < from.length; i++) {
      want[i] = 2 * from[i] - from[i];
    }
    assertThat(Arrays.equals(z.toFloats(), want)).isTrue();
    float[] sums = w.toFloats();
    float worst = 0;
    for (int i = 0; i < from.length; i++) {
      worst = Math.max(worst, Math.abs(sums[i] - (want[i] + 24 * from[i])));
    }
    assertThat(worst).isLessThan(1e-4f);
  }

  @Test
  void withoutARecordingForkedWorkIsDoneInOrder() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = floats(scope, 12, 1000);
      Tensor z = Tensor.zeros(scope, DType.F32, 1000);
      Tensor w = Tensor.zeros(scope, DType.F32, 1000);
      forked(context, x, z, w);
      assertForked(x, z, w);
      assertThatThrownBy(() -> context.fork(context::join))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("join: context: expected a call outside a fork, got one in it");
      assertThat(x.toFloats()).as("the context goes on").hasSize(1000);
    }
  }

  @Test
  @OnGpu
  void branchesOfARecordingHaveMemoryOfTheirOwnUntilTheyAreJoined() {
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      int n = 1 << 20;
      Tensor x = floats(scope, 13, n);
      Tensor z = Tensor.zeros(scope, DType.F32, n);
      Tensor w = Tensor.zeros(scope, DType.F32, n);
      try (Graph graph = Graph.capture(context, () -> forked(context, x, z, w))) {
        for (int i = 0; i < 20; i++) {
          z.zero();
          w.zero();
          graph.launch();
          assertForked(x, z, w);
        }
      }
    }
  }

  @Test
  @OnGpu
  void aRecordingEndsWithItsBranches() {
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      Tensor x = floats(scope, 14, 1 << 16);
      Tensor y = Tensor.zeros(scope, DType.F32, 1 << 16);
      Runnable work = () -> context.fork(() -> Axpby.apply(context, 1f, x, 0f, y));
      try (Graph graph = Graph.capture(context, work)) {
        graph.launch();
        assertThat(y.toFloats()).containsExactly(x.toFloats());
      }
      Runnable broken =
          () ->
              context.fork(
                  () -> {
                    throw new IllegalStateException("in a branch");
                  });
      assertThatThrownBy(() -> Graph.capture(context, broken)).hasMessage("in a branch");
      y.zero();
      work.run();
      assertThat(y.toFloats()).as("the context goes on").containsExactly(x.toFloats());
    }
  }

  @Test
  @OnGpu
  void whatCannotBeRecordedSaysSo() {
    try (Context context = Context.cuda(0);
        Scope scope = context.scope()) {
      Tensor x = floats(scope, 11, 4);
      assertThatThrownBy(() -> Graph.capture(context, x::toFloats))
          .isInstanceOf(UnsupportedException.class)
          .hasMessageContaining("memory of the GPU on both sides while a graph is recorded");
      assertThat(x.toFloats()).as("the context goes on").hasSize(4);
    }
  }
}

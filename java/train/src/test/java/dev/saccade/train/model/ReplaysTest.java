package dev.saccade.train.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.OutOfMemoryException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.function.UnaryOperator;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** With a recording that is the work itself, on the tensors of the recording. */
class ReplaysTest {
  private final Context context = Context.builder().threads(1).build();
  private final Scope scope = context.scope();
  private int recorded;
  private int launched;
  private int closed;
  private final Replays replays =
      new Replays(
          context,
          work -> {
            recorded++;
            return new Replays.Launch() {
              @Override
              public void launch() {
                launched++;
                work.run();
              }

              @Override
              public void close() {
                closed++;
              }
            };
          });

  @AfterEach
  void close() {
    replays.close();
    context.close();
  }

  /** y = 2 x; nothing is z. */
  private record Doubling(Tensor x, Tensor z, Tensor y) implements Replays.Data<Doubling> {
    @Override
    public Doubling with(UnaryOperator<Tensor> input, UnaryOperator<Tensor> output) {
      return new Doubling(input.apply(x), input.apply(z), output.apply(y));
    }
  }

  private float[] doubled(Object key, float... x) {
    Doubling data =
        new Doubling(Tensor.of(scope, x), null, Tensor.zeros(scope, DType.F32, x.length));
    replays.run(key, data, own -> Axpby.apply(context, 2, own.x, 0, own.y));
    return data.y.toFloats();
  }

  @Test
  void workIsRecordedTheSecondTimeAndLaunchedWithTheDataOfEveryCall() {
    for (int i = 1; i <= 4; i++) {
      assertThat(doubled("a", i, -i)).containsExactly(2 * i, -2 * i);
    }
    assertThat(recorded).isEqualTo(1);
    assertThat(launched).isEqualTo(3);
  }

  @Test
  void anotherKeyOrShapeIsOtherWork() {
    for (int i = 0; i < 2; i++) {
      assertThat(doubled("a", 1)).containsExactly(2);
      assertThat(doubled("a", 1, 2)).containsExactly(2, 4);
      assertThat(doubled("b", 1)).containsExactly(2);
    }
    assertThat(recorded).isEqualTo(3);
  }

  @Test
  void theLeastRecentlyUsedAreFreed() {
    doubled("first", 1);
    doubled("first", 1);
    doubled("kept", 1);
    doubled("kept", 1);
    for (int i = 0; i < 15; i++) {
      doubled(i, 1);
      doubled("kept", 1);
    }
    assertThat(closed).isEqualTo(1);
    assertThat(recorded).isEqualTo(2);
    doubled("first", 3);
    assertThat(recorded).as("it comes as if it had never come").isEqualTo(2);
  }

  @Test
  void closingFreesEverything() {
    doubled("a", 1, 2);
    scope.close();
    long before = context.liveBytes();
    try (Scope inner = context.scope()) {
      Doubling data =
          new Doubling(Tensor.of(inner, new float[2]), null, Tensor.zeros(inner, DType.F32, 2));
      replays.run("a", data, own -> Axpby.apply(context, 2, own.x, 0, own.y));
    }
    assertThat(context.liveBytes()).isGreaterThan(before);
    replays.close();
    assertThat(context.liveBytes()).isEqualTo(before);
    assertThat(closed).isEqualTo(1);
  }

  @Test
  void workThatFailsLeavesNothing() {
    Doubling data = new Doubling(Tensor.of(scope, new float[2]), null, null);
    Replays failing =
        new Replays(
            context,
            work -> {
              throw new IllegalStateException("cannot");
            });
    failing.run("a", data, own -> {});
    long before = context.liveBytes();
    assertThatThrownBy(() -> failing.run("a", data, own -> {}))
        .isInstanceOf(IllegalStateException.class);
    assertThat(context.liveBytes()).isEqualTo(before);
  }

  @Test
  void whatHasNoRoomIsCalled() {
    int[] tried = new int[1];
    try (Replays full =
        new Replays(
            context,
            work -> {
              tried[0]++;
              throw new OutOfMemoryException("no room");
            })) {
      Doubling data = new Doubling(Tensor.of(scope, new float[] {3}), null, null);
      long before = context.liveBytes();
      Tensor[] seen = new Tensor[1];
      for (int i = 0; i < 3; i++) {
        seen[0] = null;
        full.run("a", data, own -> seen[0] = own.x);
        assertThat(seen[0]).isSameAs(data.x);
      }
      assertThat(tried[0]).isEqualTo(1);
      assertThat(context.liveBytes()).isEqualTo(before);
    }
  }

  @Test
  void theCpuRecordsNothing() {
    try (Replays plain = new Replays(context)) {
      Doubling data = new Doubling(Tensor.of(scope, new float[] {3}), null, null);
      Tensor[] seen = new Tensor[1];
      for (int i = 0; i < 3; i++) {
        plain.run("a", data, own -> seen[0] = own.x);
        assertThat(seen[0]).isSameAs(data.x);
      }
    }
  }
}

package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.ClosedException;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.InvalidArgumentException;
import dev.saccade.SaccadeException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.regex.Pattern;
import java.util.stream.IntStream;

/**
 * The arguments of one call, drawn from a list of choices; past its end every choice is the first.
 * At most one argument is wrong. Then the call must be refused, with a message that names the
 * operation and that argument, and must leave its outputs as they are; otherwise it must succeed.
 */
final class BadInput {
  /** What can be wrong with a tensor. */
  private enum Fault {
    NULL,
    CLOSED,
    OF_ANOTHER_CONTEXT,
    DTYPE,
    RANK,
    SIZE,
    GAPS,
    OVERLAP
  }

  private final Scope scope;
  private final Scope foreign;
  private final Iterator<Integer> choices;
  private final Random data;

  /** Tensors that are right, and what the outputs among them held. */
  private final List<Tensor> tensors = new ArrayList<>();

  private final Map<Tensor, String> outputs = new LinkedHashMap<>();

  /** Arguments until the one that is wrong; negative when it is behind, or there is none. */
  private int untilFault;

  /** What cannot be wrong with the next tensor, and whether it may be left out: modifiers. */
  private final EnumSet<Fault> excluded = EnumSet.noneOf(Fault.class);

  private final Set<Integer> free = new HashSet<>();
  private boolean optional;

  /** What the refusal names; null where nothing is wrong. */
  private String wrong;

  /** Whether it may name another argument, which should fit that one. */
  private boolean orAnother;

  BadInput(Scope scope, Scope foreign, List<Integer> choices) {
    this.scope = scope;
    this.foreign = foreign;
    this.choices = choices.iterator();
    untilFault = below(2) == 0 ? -1 : below(40);
    data = new Random(below(256));
  }

  Scope scope() {
    return scope;
  }

  Context context() {
    return scope.context();
  }

  // ------------------------------------------------------------------------------ plain choices

  /** One of 0 … n-1. */
  int below(int n) {
    return choices.hasNext() ? choices.next() % n : 0;
  }

  boolean flip() {
    return below(2) == 1;
  }

  @SafeVarargs
  final <T> T of(T... values) {
    return values[below(values.length)];
  }

  DType floatType() {
    return of(DType.F32, DType.BF16, DType.F16);
  }

  /** A size of at least {@code minimum}: small, now and then about the width of vectors. */
  int size(int minimum) {
    return minimum + (below(8) == 7 ? of(15, 16, 33) : below(6));
  }

  /** A number of sequences that can share {@code rows}. */
  int sequences(int rows) {
    return size(rows > 0 ? 1 : 0);
  }

  /** Indices into {@code range}, and now and then beside it. */
  int[] indices(int count, int range) {
    return data.ints(count, -1, range + 1).toArray();
  }

  // ---------------------------------------------------------------------------------- arguments

  /** An option: one of {@code right}, or one of {@code bad}. */
  <T> T option(String name, List<T> right, List<T> bad) {
    return fault(name) ? bad.get(below(bad.size())) : right.get(below(right.size()));
  }

  /** An option of {@code right}, or one of {@code bad} or not finite. */
  float number(String name, List<Float> right, Float... bad) {
    List<Float> all = new ArrayList<>(List.of(bad));
    all.addAll(List.of(Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY));
    return option(name, right, all);
  }

  float temperature() {
    return number("temperature", List.of(1.0f, 0.5f, 10.0f), 0.0f, -1.0f);
  }

  /** The next tensor may be left out. */
  BadInput optional() {
    optional = true;
    return excluding(Fault.NULL);
  }

  /** No other argument has to fit these dimensions of the next tensor. */
  BadInput free(Integer... dimensions) {
    free.addAll(List.of(dimensions));
    return this;
  }

  /** The next tensor is right in any shape. */
  BadInput ofAnyShape() {
    return excluding(Fault.SIZE, Fault.RANK, Fault.GAPS);
  }

  /** The next output may lie on an input. */
  BadInput inPlace() {
    return excluding(Fault.OVERLAP);
  }

  private BadInput excluding(Fault... faults) {
    excluded.addAll(List.of(faults));
    return this;
  }

  /** An input whose rows may have gaps. */
  Tensor strided(String name, DType dtype, long... shape) {
    return excluding(Fault.OVERLAP).tensor(name, dtype, true, null, shape);
  }

  /** An input without gaps. */
  Tensor dense(String name, DType dtype, long... shape) {
    return excluding(Fault.OVERLAP).tensor(name, dtype, false, null, shape);
  }

  Tensor f32(String name, long... shape) {
    return dense(name, DType.F32, shape);
  }

  /** An i32 input of one dimension. */
  Tensor ints(String name, int[] values) {
    return excluding(Fault.OVERLAP).tensor(name, DType.I32, false, values, values.length);
  }

  /** Offsets of {@code sequences} that share {@code rows}. */
  Tensor offsets(String name, int sequences, int rows) {
    int[] offsets = new int[sequences + 1];
    for (int s = 1; s < sequences; s++) {
      offsets[s] = data.nextInt(rows + 1);
    }
    offsets[sequences] = rows;
    Arrays.sort(offsets);
    if (fault(name)) {
      if (flip()) {
        return ints(name, new int[0]);
      }
      offsets[below(offsets.length)] = of(Integer.MIN_VALUE, Integer.MAX_VALUE, -1);
    }
    if (rows == 0) {
      free(0); // any number of sequences shares no rows
    }
    return ints(name, offsets);
  }

  Tensor optionalF32(String name, long... shape) {
    return optional().f32(name, shape);
  }

  /** u8, optional. */
  Tensor mask(String name, long rows) {
    return optional().dense(name, DType.U8, rows);
  }

  Tensor stridedOutput(String name, DType dtype, long... shape) {
    return watched(tensor(name, dtype, true, null, shape));
  }

  Tensor output(String name, DType dtype, long... shape) {
    return watched(tensor(name, dtype, false, null, shape));
  }

  Tensor output(String name, long... shape) {
    return output(name, DType.F32, shape);
  }

  Tensor optionalOutput(String name, long... shape) {
    return optional().output(name, shape);
  }

  private Tensor watched(Tensor output) {
    if (output != null && output.isOpen()) {
      outputs.put(output, contents(output));
    }
    return output;
  }

  /** Whether the next argument is the wrong one. */
  private boolean fault(String name) {
    boolean now = untilFault-- == 0;
    if (now) {
      wrong = name;
    }
    return now;
  }

  private Tensor tensor(
      String name, DType dtype, boolean mayHaveGaps, int[] values, long... shape) {
    boolean left = optional && flip();
    optional = false;
    List<Fault> possible = new ArrayList<>(EnumSet.complementOf(excluded));
    int[] fixed = IntStream.range(0, shape.length).filter(d -> !free.contains(d)).toArray();
    excluded.clear();
    free.clear();
    if (left) {
      return null;
    }
    boolean gaps = mayHaveGaps && flip();
    Tensor twin = twin(dtype, shape);
    if (!fault(name)) {
      return create(scope, dtype, gaps, values, shape);
    }
    if (fixed.length == 0) {
      possible.remove(Fault.SIZE);
    }
    if (twin == null) {
      possible.remove(Fault.OVERLAP);
    }
    if (mayHaveGaps || shape.length != 2 || shape[0] < 2 || shape[1] == 0) {
      possible.remove(Fault.GAPS); // that nothing forbids, or that are not there
    }
    return switch (possible.get(below(possible.size()))) {
      case NULL -> null;
      case CLOSED -> {
        Tensor tensor = create(scope, dtype, gaps, values, shape);
        tensor.close();
        yield tensor;
      }
      case OF_ANOTHER_CONTEXT -> create(foreign, dtype, gaps, values, shape);
      case DTYPE -> create(scope, dtype == DType.F64 ? DType.U8 : DType.F64, gaps, null, shape);
      case RANK -> {
        long[] longer = Arrays.copyOf(shape, shape.length + 1);
        longer[shape.length] = 1;
        yield create(scope, dtype, false, values, longer);
      }
      case SIZE -> {
        orAnother = true;
        long[] other = shape.clone();
        int dimension = fixed[below(fixed.length)];
        other[dimension]++;
        if (dimension > 0 && flip()) { // that holds nothing
          other[0] = 0;
          other[dimension] = 1L << 40;
        }
        yield create(scope, dtype, gaps, null, other);
      }
      case GAPS -> create(scope, dtype, true, values, shape);
      case OVERLAP -> twin;
    };
  }

  /** An argument of the same type and shape that holds elements. */
  private Tensor twin(DType dtype, long[] shape) {
    return tensors.stream()
        .filter(t -> t.dtype() == dtype && Arrays.equals(t.shape(), shape) && t.size() > 0)
        .findFirst()
        .orElse(null);
  }

  private Tensor create(Scope owner, DType dtype, boolean gaps, int[] values, long... shape) {
    Tensor tensor =
        gaps && shape.length == 2
            ? Tensor.zeros(owner, dtype, shape[0], shape[1] + 3).columns(2, 2 + shape[1])
            : Tensor.zeros(owner, dtype, shape);
    if (values != null) {
      tensor.copyFrom(values);
    } else if (dtype == DType.U8) {
      byte[] bytes = new byte[(int) tensor.size()];
      data.nextBytes(bytes);
      tensor.copyFrom(bytes);
    } else if (dtype != DType.I32 && dtype != DType.I64) {
      tensor.copyFrom(numbers((int) tensor.size()));
    }
    tensors.add(tensor);
    return tensor;
  }

  private float[] numbers(int n) {
    boolean wild = data.nextInt(4) == 0;
    float[] values = new float[n];
    for (int i = 0; i < n; i++) {
      values[i] = (float) data.nextGaussian();
      if (wild && data.nextInt(4) == 0) {
        values[i] = new float[] {Float.NaN, Float.NEGATIVE_INFINITY, 3e38f}[data.nextInt(3)];
      }
    }
    return values;
  }

  // -------------------------------------------------------------------------------------- checks

  /** What became of the call. */
  void check(String operation, Runnable call) {
    try {
      call.run();
    } catch (InvalidArgumentException | ClosedException e) {
      assertThat(wrong).as("a sound call is refused: %s", e).isNotNull();
      assertThat(e).hasMessageStartingWith(operation + ": ");
      if (!orAnother) {
        assertThat(named(e)).containsPattern("(?<!\\w)" + Pattern.quote(wrong) + "(?!\\w)");
      }
      outputs.forEach(
          (output, before) -> assertThat(contents(output)).as("after %s", e).isEqualTo(before));
      return;
    }
    assertThat(wrong).as("the argument that is wrong, and not refused").isNull();
  }

  private static String named(SaccadeException e) {
    if (!(e instanceof InvalidArgumentException invalid)) {
      return e.getMessage();
    }
    boolean overlap = invalid.actual().startsWith("an overlap with ");
    return overlap ? invalid.argument() + ", " + invalid.actual() : invalid.argument();
  }

  private static String contents(Tensor tensor) {
    return switch (tensor.dtype()) {
      case I32 -> Arrays.toString(tensor.toInts());
      case I64 -> Arrays.toString(tensor.toLongs());
      case U8 -> Arrays.toString(tensor.toBytes());
      default -> Arrays.toString(tensor.toDoubles());
    };
  }
}

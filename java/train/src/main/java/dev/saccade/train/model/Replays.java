package dev.saccade.train.model;

import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.Graph;
import dev.saccade.OutOfMemoryException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.UnaryOperator;

/**
 * Work that is done again and again on data of the same shapes. On a GPU it is recorded when it
 * comes a second time, and is one launch from then on; on the CPU, and on the legacy default stream
 * of a GPU, which records nothing, it is called every time.
 *
 * <p>A recording works on tensors of its own: inputs are copied to them before a launch, outputs
 * from them after it, within the GPU. Work that has the same key, on data of the same shapes, must
 * therefore be the same calls of operations; what differs is what tensors hold: those of the data,
 * and others that stay where they are as long as this is open. It may make tensors and close them,
 * but neither read nor upload. Recordings have memory of their own; where there is none left, work
 * is called.
 *
 * <p>Used by one thread at a time, as its context is.
 */
public final class Replays implements AutoCloseable {
  /** The least recently used give way to others. */
  private static final int MOST = 16;

  private static final long LEGACY_STREAM = 1;

  /** The tensors that work is given. */
  public interface Data<T> {
    /** The same with other tensors; those that are null, where there are none, stay so. */
    T with(UnaryOperator<Tensor> input, UnaryOperator<Tensor> output);
  }

  /** What tells recordings apart. */
  private record Key(Object work, List<List<Object>> tensors) {}

  /** Records work: what runs it again, and frees it. */
  interface Recorder {
    Launch record(Runnable work);
  }

  /** What was recorded. */
  interface Launch extends AutoCloseable {
    void launch();

    @Override
    void close();
  }

  private final Context context;

  /** Null where nothing is recorded. */
  private final Recorder recorder;

  private final Map<Key, Recording> recordings = new LinkedHashMap<>(16, 0.75f, true);

  /** Without a launch: it came once, or there is no room for what it needs of its own. */
  private static final class Recording implements AutoCloseable {
    boolean isTooLarge;
    Launch launch;
    Scope scope;
    List<Tensor> inputs;
    List<Tensor> outputs;

    @Override
    public void close() {
      if (launch != null) {
        launch.close();
      }
      if (scope != null) {
        scope.close();
      }
    }
  }

  /** Work on a device. */
  public Replays(Context context) {
    this(
        context,
        context.device().kind() == Device.Kind.CUDA && context.stream() > LEGACY_STREAM
            ? work -> launch(Graph.capture(context, work))
            : null);
  }

  Replays(Context context, Recorder recorder) {
    this.context = context;
    this.recorder = recorder;
  }

  private static Launch launch(Graph graph) {
    return new Launch() {
      @Override
      public void launch() {
        graph.launch();
      }

      @Override
      public void close() {
        graph.close();
      }
    };
  }

  /**
   * Does the work.
   *
   * @param key of the work, with all that it depends on besides tensors
   * @param data the tensors; after the call the outputs hold the results
   */
  public <T extends Data<T>> void run(Object key, T data, Consumer<T> work) {
    if (recorder == null) {
      work.accept(data);
      return;
    }
    List<Tensor> inputs = new ArrayList<>();
    List<Tensor> outputs = new ArrayList<>();
    data.with(into(inputs), into(outputs));
    Key whole = new Key(key, List.of(shapes(inputs), shapes(outputs)));
    Recording recording = recordings.get(whole);
    if (recording == null) {
      add(whole);
      work.accept(data);
      return;
    }
    if (recording.launch == null && !recording.isTooLarge) {
      record(recording, data, work);
    }
    if (recording.launch == null) {
      work.accept(data);
      return;
    }
    copy(inputs, recording.inputs);
    recording.launch.launch();
    copy(recording.outputs, outputs);
  }

  private void add(Key key) {
    if (recordings.size() == MOST) {
      Key eldest = recordings.keySet().iterator().next();
      recordings.remove(eldest).close();
    }
    recordings.put(key, new Recording());
  }

  private <T extends Data<T>> void record(Recording recording, T data, Consumer<T> work) {
    List<Tensor> inputs = new ArrayList<>();
    List<Tensor> outputs = new ArrayList<>();
    context.trim(); // what calls have left is no memory of a recording
    Scope scope = context.scope();
    try {
      T own = data.with(like(scope, inputs), like(scope, outputs));
      recording.launch = recorder.record(() -> work.accept(own));
    } catch (OutOfMemoryException e) {
      scope.close();
      recording.isTooLarge = true;
      free(); // the call needs memory too
      return;
    } catch (RuntimeException | Error e) {
      scope.close();
      throw e;
    }
    recording.scope = scope;
    recording.inputs = inputs;
    recording.outputs = outputs;
  }

  private static UnaryOperator<Tensor> into(List<Tensor> list) {
    return tensor -> {
      list.add(tensor);
      return tensor;
    };
  }

  private static UnaryOperator<Tensor> like(Scope scope, List<Tensor> list) {
    return tensor -> {
      Tensor own = tensor == null ? null : Tensor.empty(scope, tensor.dtype(), tensor.shape());
      list.add(own);
      return own;
    };
  }

  private static List<Object> shapes(List<Tensor> tensors) {
    List<Object> shapes = new ArrayList<>();
    for (Tensor tensor : tensors) {
      shapes.add(tensor == null ? "none" : tensor.dtype() + Arrays.toString(tensor.shape()));
    }
    return shapes;
  }

  private static void copy(List<Tensor> from, List<Tensor> to) {
    for (int i = 0; i < from.size(); i++) {
      if (from.get(i) != null) {
        to.get(i).copyFrom(from.get(i));
      }
    }
  }

  /** Frees what was recorded, all of which may be recorded again. */
  private void free() {
    for (Recording recording : recordings.values()) {
      recording.close();
      recording.launch = null;
      recording.scope = null;
    }
  }

  /** Frees the recordings. */
  @Override
  public void close() {
    free();
    recordings.clear();
  }
}

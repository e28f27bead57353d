package dev.saccade.benchmarks;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.binding.Saccade;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintWriter;
import java.io.Writer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.bytedeco.javacpp.Loader;
import org.openjdk.jmh.util.ListStatistics;

/**
 * PyTorch, Triton, and this very library called by ctypes on PyTorch's buffers, on work that was
 * measured here before: benchmarks/peers/*.py, which the jar carries. {@code SACCADE_PYTHON} names
 * another interpreter than {@code python3}.
 */
final class PythonPeers {
  static final String CTYPES = "ctypes";

  /** In the order of tables. */
  static final List<String> NAMES = List.of("eager", "compiled", "triton", CTYPES);

  static final String TRAINING_LOOP = "training_loop.py";

  private static final List<String> FILES =
      List.of(
          "torch_peers.py",
          "operations.py",
          "saccade_library.py",
          "triton_kernels.py",
          TRAINING_LOOP);

  /**
   * Work that Saccade did.
   *
   * @param benchmark as it was measured
   * @param launches in a measurement
   */
  record Item(
      Case work,
      OperationBenchmark benchmark,
      Result.Line line,
      Result.Machine machine,
      int launches) {}

  private static final ObjectMapper JSON = new ObjectMapper();

  private final Device device;
  private final int threads;
  private final List<String> names;
  private final PrintWriter err;

  /**
   * @param peers those of {@link #NAMES} among them are measured
   */
  PythonPeers(Device device, int threads, List<String> peers, PrintWriter err) {
    this.device = device;
    this.threads = threads;
    names = NAMES.stream().filter(peers::contains).toList();
    this.err = err;
  }

  /** Measures all of them; a peer that has the operation gives a result, or why it has none. */
  void run(List<Item> items, Consumer<Result> results) throws IOException {
    if (items.isEmpty() || names.isEmpty()) {
      return;
    }
    Set<String> answered = new HashSet<>();
    List<Object> requests = new ArrayList<>();
    for (int id = 0; id < items.size(); id++) {
      requests.add(request(id, items.get(id)));
    }
    String[] software = {""};
    NvidiaSmi smi = device.kind() == Device.Kind.CUDA ? NvidiaSmi.start(device.index()) : null;
    String problem;
    try (smi) {
      problem =
          converse(
              FILES.get(0),
              List.of(
                  "--device=" + device,
                  "--threads=" + threads,
                  "--engines=" + String.join(",", names),
                  "--library=" + library()),
              requests,
              answer -> {
                if (answer.has("software")) {
                  software[0] = answer.get("software").asText().replace(',', ';');
                  return;
                }
                Result result = result(items, answer, software[0], smi);
                if (!answered.add(answer.get("id").asInt() + result.engine())) {
                  return; // it had answered when it failed
                }
                results.accept(result);
                err.printf(
                    Locale.ROOT,
                    "%s, %s, %s: %s %s%n",
                    result.line().operation(),
                    result.line().data(),
                    result.line().dtype(),
                    result.engine(),
                    result.isRun()
                        ? String.format(Locale.ROOT, "%.4g ms", result.milliseconds())
                        : result.note());
                err.flush();
              });
    }
    for (int id = 0; id < items.size(); id++) {
      for (String name : names) {
        if (!problem.isEmpty() && answered.add(id + name)) {
          Item item = items.get(id);
          results.accept(Result.notRun(item.line, name, item.machine, problem));
        }
      }
    }
  }

  /**
   * Runs a program that reads and writes a JSON object a line.
   *
   * @param program one of those that the jar carries
   * @param answers gets what it writes
   * @return what kept it from going on to the end, or nothing
   */
  static String converse(
      String program, List<String> arguments, List<?> requests, Consumer<JsonNode> answers)
      throws IOException {
    Path folder = Files.createTempDirectory("saccade-peers");
    try {
      unpack(folder);
      return converse(folder.resolve(program), arguments, requests, answers);
    } finally {
      try (Stream<Path> files = Files.walk(folder)) {
        files.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
      }
    }
  }

  private static String converse(
      Path program, List<String> arguments, List<?> requests, Consumer<JsonNode> answers)
      throws IOException {
    String python = System.getenv().getOrDefault("SACCADE_PYTHON", "python3");
    List<String> command = new ArrayList<>(List.of(python, program.toString()));
    command.addAll(arguments);
    Process process;
    try {
      process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    } catch (IOException e) {
      return "no " + python;
    }
    String problem = "";
    try (Writer work = process.outputWriter();
        BufferedReader lines = process.inputReader()) {
      for (Object request : requests) {
        work.write(JSON.writeValueAsString(request) + "\n");
      }
      work.close();
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        JsonNode answer = JSON.readTree(line);
        if (answer.has("problem")) {
          problem = answer.get("problem").asText();
        } else {
          answers.accept(answer);
        }
      }
      int status = process.waitFor();
      return problem.isEmpty() && status != 0 ? python + " ended with status " + status : problem;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return "interrupted";
    } finally {
      process.destroy();
    }
  }

  static Map<String, Object> request(int id, Item item) {
    Map<String, Object> request = new LinkedHashMap<>();
    request.put("id", id);
    request.put("operation", item.work.operation());
    request.put("method", item.work.method());
    request.put("dtype", item.benchmark.dtype().toString());
    request.put("parameters", item.benchmark.parameters());
    boolean cpu = item.machine.device().equals(Device.CPU.toString());
    request.put("copies", cpu ? 1 : item.benchmark.workload(item.work.method()).copies());
    request.put("launches", item.launches);
    return request;
  }

  /**
   * The result that an answer is.
   *
   * @param smi what was sampled of the GPU; null for nothing
   */
  static Result result(List<Item> items, JsonNode answer, String software, NvidiaSmi smi) {
    Item item = items.get(answer.get("id").asInt());
    String engine = answer.get("engine").asText();
    Result.Machine machine = item.machine.withSoftware(software);
    if (answer.has("note")) {
      return Result.notRun(item.line, engine, machine, answer.get("note").asText());
    }
    JsonNode times = answer.get("times_ms");
    var statistics =
        new ListStatistics(
            IntStream.range(0, times.size()).mapToDouble(i -> times.get(i).asDouble()).toArray());
    return new Result(
        item.line,
        engine,
        new Result.Time(
            statistics.getPercentile(50),
            statistics.getMean(),
            statistics.getMeanErrorAt(0.999),
            answer.path("event_ms").asDouble(Double.NaN)),
        Double.NaN,
        answer.path("extra_bytes").asDouble(Double.NaN),
        smi == null
            ? Result.Conditions.UNKNOWN
            : smi.last((long) (1e9 * answer.path("lasted_s").asDouble())).conditions(),
        machine,
        "");
  }

  /** Writes the program into a folder; returns its file. */
  static Path unpack(Path folder) throws IOException {
    for (String file : FILES) {
      copy("peers/" + file, folder.resolve(file));
    }
    copy("saccade.h", folder.resolve("saccade.h"));
    return folder.resolve(FILES.get(0));
  }

  private static void copy(String resource, Path file) throws IOException {
    try (InputStream in = PythonPeers.class.getResourceAsStream(resource)) {
      Files.copy(in, file);
    }
  }

  /** The library that this JVM uses. */
  static Path library() {
    Context.nativeBuild(); // it is loaded
    return Path.of(Loader.load(Saccade.class)).resolveSibling("libsaccade.so");
  }
}

package dev.saccade.benchmarks;

import static org.bytedeco.cuda.global.cudart.cudaDeviceGetPCIBusId;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.TreeMap;
import org.bytedeco.javacpp.BytePointer;

/**
 * What nvidia-smi, which asks NVML, says of a GPU while something runs on it, ten times a second.
 */
final class NvidiaSmi implements AutoCloseable {
  /** Bits of NVML's nvmlClocksEventReasons, but for an idle GPU's. */
  private static final Map<Integer, String> REASONS = new LinkedHashMap<>();

  static {
    REASONS.put(0x2, "application clocks");
    REASONS.put(0x4, "power cap");
    REASONS.put(0x8, "hardware slowdown");
    REASONS.put(0x10, "sync boost");
    REASONS.put(0x20, "temperature");
    REASONS.put(0x40, "hardware temperature");
    REASONS.put(0x80, "power brake");
    REASONS.put(0x100, "display clocks");
  }

  /**
   * At one moment, or of several.
   *
   * @param megahertz clock of the multiprocessors
   * @param watts cap of the power
   * @param reasons bits of NVML for why the clock is not higher; NaN as the others if not known
   */
  record Sample(double megahertz, double watts, double reasons) {
    static final Sample UNKNOWN = new Sample(Double.NaN, Double.NaN, Double.NaN);

    /** Of a line of the query; what is not a number there is NaN. */
    static Sample parse(String line) {
      String[] fields = line.split(",", -1);
      return fields.length == 3
          ? new Sample(number(fields[0]), number(fields[1]), number(fields[2]))
          : UNKNOWN;
    }

    Result.Conditions conditions() {
      return new Result.Conditions(megahertz, watts, NvidiaSmi.reasons(reasons));
    }

    private static double number(String field) {
      try {
        String text = field.strip();
        return text.startsWith("0x")
            ? Long.parseUnsignedLong(text.substring(2), 16)
            : Double.parseDouble(text);
      } catch (NumberFormatException e) {
        return Double.NaN;
      }
    }

    /** The median clock, the largest cap, and every reason that there was. */
    static Sample of(Collection<Sample> samples) {
      double[] clocks =
          samples.stream()
              .mapToDouble(Sample::megahertz)
              .filter(x -> !Double.isNaN(x))
              .sorted()
              .toArray();
      double cap =
          samples.stream()
              .mapToDouble(Sample::watts)
              .filter(x -> !Double.isNaN(x))
              .max()
              .orElse(Double.NaN);
      long bits = 0;
      for (Sample sample : samples) {
        bits |= (long) sample.reasons;
      }
      boolean known = samples.stream().anyMatch(sample -> !Double.isNaN(sample.reasons));
      return new Sample(
          clocks.length == 0 ? Double.NaN : clocks[clocks.length / 2],
          cap,
          known ? bits : Double.NaN);
    }
  }

  /** Names of {@link Sample#reasons}; "none", or nothing where they are not known. */
  static String reasons(double bits) {
    if (Double.isNaN(bits)) {
      return "";
    }
    List<String> names = new ArrayList<>();
    REASONS.forEach(
        (bit, name) -> {
          if (((long) bits & bit) != 0) {
            names.add(name);
          }
        });
    return names.isEmpty() ? "none" : String.join(" and ", names);
  }

  /**
   * What nvidia-smi calls a GPU of CUDA, whose indices are those of CUDA_VISIBLE_DEVICES and of an
   * order of its own; the index where the toolkit's runtime is missing.
   */
  private static String id(int index) {
    try (BytePointer id = new BytePointer(32)) {
      return cudaDeviceGetPCIBusId(id, (int) id.capacity(), index) == 0
          ? id.limit(0).getString() // limit 0: up to the zero
          : Integer.toString(index);
    } catch (LinkageError e) {
      return Integer.toString(index);
    }
  }

  /** What one query of a GPU answers; nothing where there is no nvidia-smi. */
  static String query(int index, String fields) {
    try {
      Process process =
          new ProcessBuilder(
                  "nvidia-smi",
                  "--id=" + id(index),
                  "--query-gpu=" + fields,
                  "--format=csv,noheader,nounits")
              .redirectErrorStream(true)
              .start();
      String answer = new String(process.getInputStream().readAllBytes()).strip();
      return process.waitFor() == 0 ? answer : "";
    } catch (IOException e) {
      return "";
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return "";
    }
  }

  private final Process process;
  private final NavigableMap<Long, Sample> samples = new TreeMap<>(); // by System.nanoTime()

  private NvidiaSmi(Process process) {
    this.process = process;
    Thread reader = new Thread(this::read, "nvidia-smi");
    reader.setDaemon(true);
    reader.start();
  }

  /** Begins to ask about a GPU; null where there is no nvidia-smi. */
  static NvidiaSmi start(int index) {
    try {
      return new NvidiaSmi(
          new ProcessBuilder(
                  "nvidia-smi",
                  "--id=" + id(index),
                  "--query-gpu=clocks.sm,power.limit,clocks_event_reasons.active",
                  "--format=csv,noheader,nounits",
                  "--loop-ms=100")
              .redirectErrorStream(true)
              .start());
    } catch (IOException e) {
      return null;
    }
  }

  private void read() {
    try (BufferedReader lines = process.inputReader()) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        synchronized (samples) {
          samples.put(System.nanoTime(), Sample.parse(line));
        }
      }
    } catch (IOException | UncheckedIOException e) {
      // closed
    }
  }

  /** {@link Sample#of} what it has answered in so many nanoseconds until now. */
  Sample last(long nanoseconds) {
    synchronized (samples) {
      return Sample.of(samples.tailMap(System.nanoTime() - nanoseconds).values());
    }
  }

  @Override
  public void close() {
    process.destroy();
  }
}

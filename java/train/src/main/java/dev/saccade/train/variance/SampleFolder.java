package dev.saccade.train.variance;

import dev.saccade.Context;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.io.Safetensors;
import dev.saccade.train.variance.Layout.Part;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.LongConsumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * Gradient samples of any framework: a folder of safetensors files, one a sample, with the same
 * tensors of floating point in each.
 *
 * <p>The name of a tensor gives layer and head, as {@code layer3.head5.q_proj} does, or {@code
 * model.layers.3.self_attn.q_proj.weight}, which is head 0 of its layer; what is left is the
 * target. Metadata of a file: {@code prompt} and {@code estimator}, both of which may be missing.
 * Without {@code prompt} every file is a prompt of its own, and nothing is known of the variance
 * within prompts. With several estimators the n-th sample of a prompt is taken to be of the same
 * responses for each.
 */
public final class SampleFolder {
  private static final Pattern LAYER = Pattern.compile("layers?[._]?(\\d+)");
  private static final Pattern HEAD = Pattern.compile("heads?[._]?(\\d+)");

  private final Path folder;

  /** By prompt, then estimator: files in the order of their names. */
  private final Map<String, Map<String, List<Path>>> files = new TreeMap<>();

  private final List<String> estimators;
  private final Map<String, Part> parts = new LinkedHashMap<>();
  private final Layout layout;

  /**
   * Reads the names.
   *
   * @throws IOException if there are no files, or they do not fit together; the message names one
   */
  public SampleFolder(Path folder) throws IOException {
    this.folder = folder;
    List<Path> all;
    try (Stream<Path> found = Files.list(folder)) {
      all = found.filter(f -> f.toString().endsWith(".safetensors")).sorted().toList();
    }
    if (all.isEmpty()) {
      throw new IOException(folder + ": expected files *.safetensors, got none");
    }
    TreeSet<String> names = new TreeSet<>();
    for (Path file : all) {
      Map<String, String> metadata = Safetensors.open(file).metadata();
      String estimator = metadata.getOrDefault("estimator", "samples");
      names.add(estimator);
      files
          .computeIfAbsent(
              metadata.getOrDefault("prompt", file.getFileName().toString()),
              any -> new TreeMap<>())
          .computeIfAbsent(estimator, any -> new ArrayList<>())
          .add(file);
    }
    estimators = List.copyOf(names);
    files.forEach((prompt, own) -> requireSame(prompt, own));
    Map<Part, Long> sizes = new TreeMap<>(SampleFolder::order);
    Safetensors.open(all.get(0))
        .entries()
        .forEach(
            (name, entry) -> {
              Part part = part(name);
              parts.put(name, part);
              sizes.merge(part, (long) entry.size(), Long::sum);
            });
    layout = Layout.of(sizes);
  }

  private static int order(Part a, Part b) {
    int byTarget = a.target().compareTo(b.target());
    int byLayer = Integer.compare(a.layer(), b.layer());
    return byTarget != 0 ? byTarget : byLayer != 0 ? byLayer : Integer.compare(a.head(), b.head());
  }

  private void requireSame(String prompt, Map<String, List<Path>> own) {
    int count = own.values().iterator().next().size();
    for (String estimator : estimators) {
      int theirs = own.getOrDefault(estimator, List.of()).size();
      if (theirs != count) {
        throw new IllegalArgumentException(
            "%s: prompt %s: expected %d samples of each estimator, got %d of %s"
                .formatted(folder, prompt, count, theirs, estimator));
      }
    }
  }

  /** Layer, head and target of a tensor's name. */
  static Part part(String name) {
    Matcher layer = LAYER.matcher(name);
    Matcher head = HEAD.matcher(name);
    int ofLayer = layer.find() ? Integer.parseInt(layer.group(1)) : 0;
    int ofHead = head.find() ? Integer.parseInt(head.group(1)) : 0;
    String target =
        HEAD.matcher(LAYER.matcher(name).replaceFirst(""))
            .replaceFirst("")
            .replaceAll("[^A-Za-z0-9_]+", ".")
            .replaceAll("^[._]+|[._]+$", "");
    return new Part(target.isEmpty() ? "gradient" : target, ofLayer, ofHead);
  }

  /** Number of files. */
  public long samples() {
    return files.values().stream()
        .mapToLong(own -> own.values().stream().mapToLong(List::size).sum())
        .sum();
  }

  /**
   * Reads every sample once and writes tables, figures and the page.
   *
   * @param blocks that the bootstrap draws, where there are as many prompts
   * @param progress called with the number of files that were read
   */
  public void analyse(
      Context context, int blocks, int replicates, long seed, Path out, LongConsumer progress)
      throws IOException {
    List<Map<String, List<Path>>> prompts = List.copyOf(files.values());
    int count = Math.min(blocks, prompts.size());
    List<Block> measured = new ArrayList<>();
    long done = 0;
    try (Recorder recorder = new Recorder(context, layout, estimators, true)) {
      for (int b = 0; b < count; b++) {
        int begin = (int) ((long) b * prompts.size() / count);
        int end = (int) ((long) (b + 1) * prompts.size() / count);
        recorder.begin(end - begin);
        for (Map<String, List<Path>> own : prompts.subList(begin, end)) {
          int samples = own.get(estimators.get(0)).size();
          for (int i = 0; i < samples; i++) {
            for (int e = 0; e < estimators.size(); e++) {
              try (Scope scope = context.scope()) {
                float[] sample = read(own.get(estimators.get(e)).get(i));
                recorder.add(e, Tensor.of(scope, sample, 1, sample.length), recorder.open());
              }
              progress.accept(++done);
            }
            recorder.endGroup(1);
          }
          recorder.endPrompt();
        }
        measured.add(recorder.end(estimators.stream().map(any -> new double[0]).toList()));
      }
    }
    double groups = (double) done / estimators.size() / prompts.size();
    List<Analysis.Row> rows = new Analysis(measured, layout, groups, replicates, seed).run();
    new VarianceResult(
            folder.toString(),
            "samples: %s\nblocks: %d\nreplicates: %d\nseed: %d"
                .formatted(folder, blocks, replicates, seed),
            done / estimators.size(),
            List.of(
                new VarianceResult.Measured(
                    new VarianceConfig.Case("", "", Setting.DEFAULT), rows)),
            null)
        .write(Files.createDirectories(out));
  }

  /** The elements of a file, part by part. */
  private float[] read(Path file) throws IOException {
    Safetensors stored = Safetensors.open(file);
    Map<Part, float[]> split = layout.split(new float[(int) layout.size()]);
    Map<Part, Integer> filled = new LinkedHashMap<>();
    if (!stored.entries().keySet().equals(new TreeSet<>(parts.keySet()))) {
      throw new IOException(
          "%s: expected the tensors %s, got %s"
              .formatted(file, parts.keySet(), stored.entries().keySet()));
    }
    for (Map.Entry<String, Part> own : parts.entrySet()) {
      double[] values = stored.entry(own.getKey()).toDoubles();
      float[] to = split.get(own.getValue());
      int at = filled.getOrDefault(own.getValue(), 0);
      if (at + values.length > to.length) {
        throw new IOException(
            "%s: %s: expected %d elements in all of layer %d, head %d, got more"
                .formatted(
                    file, own.getKey(), to.length, own.getValue().layer(), own.getValue().head()));
      }
      for (int i = 0; i < values.length; i++) {
        to[at + i] = (float) values[i];
      }
      filled.put(own.getValue(), at + values.length);
    }
    float[] sample = new float[(int) layout.size()];
    int at = 0;
    for (Part part : layout.parts()) {
      float[] values = split.get(part);
      if (filled.get(part) != values.length) {
        throw new IOException(
            "%s: expected %d elements of layer %d, head %d, got %d"
                .formatted(file, values.length, part.layer(), part.head(), filled.get(part)));
      }
      System.arraycopy(values, 0, sample, at, values.length);
      at += values.length;
    }
    return sample;
  }
}

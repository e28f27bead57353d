package dev.saccade.benchmarks;

import static org.bytedeco.cuda.global.cudart.cudaEventCreate;
import static org.bytedeco.cuda.global.cudart.cudaEventDestroy;
import static org.bytedeco.cuda.global.cudart.cudaEventElapsedTime;
import static org.bytedeco.cuda.global.cudart.cudaEventRecord;

import org.bytedeco.cuda.cudart.CUevent_st;
import org.bytedeco.cuda.cudart.CUstream_st;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.Pointer;

/** The GPU's own clock around what a stream is given. */
interface CudaEvents extends AutoCloseable {
  /** Of that {@code cudaStream_t}; events that tell NaN where the toolkit's runtime is missing. */
  static CudaEvents open(long stream) {
    try {
      return new OfRuntime(stream);
    } catch (LinkageError e) {
      return new CudaEvents() {};
    }
  }

  default void start() {}

  default void stop() {}

  /** Between the two, once the stream has passed both; NaN where that is not known. */
  default double seconds() {
    return Double.NaN;
  }

  @Override
  default void close() {}

  /** By the CUDA runtime of the toolkit. */
  final class OfRuntime implements CudaEvents {
    /** A handle, as JavaCPP wants it named. */
    private static final class Address extends Pointer {
      Address(long address) {
        this.address = address;
      }
    }

    private final CUstream_st stream;
    private final CUevent_st start = new CUevent_st();
    private final CUevent_st stop = new CUevent_st();
    private final FloatPointer milliseconds = new FloatPointer(1);

    private OfRuntime(long stream) {
      this.stream = new CUstream_st(new Address(stream));
      require(cudaEventCreate(start));
      require(cudaEventCreate(stop));
    }

    @Override
    public void start() {
      require(cudaEventRecord(start, stream));
    }

    @Override
    public void stop() {
      require(cudaEventRecord(stop, stream));
    }

    @Override
    public double seconds() {
      require(cudaEventElapsedTime(milliseconds, start, stop));
      return milliseconds.get() / 1e3;
    }

    private static void require(int status) {
      if (status != 0) {
        throw new IllegalStateException("CUDA runtime: status " + status);
      }
    }

    @Override
    public void close() {
      cudaEventDestroy(start);
      cudaEventDestroy(stop);
      milliseconds.close();
    }
  }
}

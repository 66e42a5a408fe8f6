/* Four scans of a case in, its label map out. Not for clinical use.
 *
 *     Segment ../../tfs.protoset HOST:PORT MODEL flair.nii.gz t1.nii.gz t1ce.nii.gz t2.nii.gz seg.nii */
import com.google.protobuf.*;
import com.google.protobuf.Descriptors.Descriptor;
import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Descriptors.FileDescriptor;
import com.google.protobuf.util.JsonFormat;
import io.grpc.*;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import java.io.*;
import java.nio.*;
import java.nio.file.*;
import java.util.*;
import java.util.zip.GZIPInputStream;

public class Segment {
  /** An int16 NIfTI file, as it is. */
  static ByteBuffer scan(String path) throws IOException {
    byte[] content = new GZIPInputStream(new FileInputStream(path)).readAllBytes();
    ByteBuffer file = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN);
    float slope = file.getFloat(112), intercept = file.getFloat(116);
    boolean isAsItIs = slope == 0 || Float.isNaN(slope) || slope == 1 && intercept == 0;
    if (file.getShort(70) != 4 || !isAsItIs)
      throw new IOException(path + ": not int16 as it is: send it as float32 by serving_default");
    if (file.getShort(254) <= 0) throw new IOException(path + ": its sform does not say where the axes go");
    return file;
  }

  /** Where the axes of a file go, each by where it goes most: right or left, to the front or back, up or down. */
  static String axes(ByteBuffer file) {
    StringBuilder found = new StringBuilder();
    for (int axis = 0; axis < 3; axis++) {
      float most = 0;
      char letter = ' ';
      for (int row = 0; row < 3; row++) {
        float goes = file.getFloat(280 + 16 * row + 4 * axis);
        if (Math.abs(goes) <= Math.abs(most)) continue;
        most = goes;
        letter = (goes > 0 ? "RAS" : "LPI").charAt(row);
      }
      found.append(letter);
    }
    return found.toString();
  }

  /** The file's descriptors, by the path that others import them by. */
  static Map<String, FileDescriptor> descriptors(Path path) throws Exception {
    Map<String, FileDescriptor> built = new HashMap<>();
    for (var file : DescriptorProtos.FileDescriptorSet.parseFrom(Files.readAllBytes(path)).getFileList()) {
      var needed = file.getDependencyList().stream().map(built::get).toArray(FileDescriptor[]::new);
      built.put(file.getName(), FileDescriptor.buildFrom(file, needed));
    }
    return built;
  }

  static DynamicMessage entry(Descriptor of, String key, Message value) {
    return DynamicMessage.newBuilder(of).setField(of.findFieldByName("key"), key)
        .setField(of.findFieldByName("value"), value).build();
  }

  public static void main(String[] given) throws Exception {
    FileDescriptor predict = descriptors(Path.of(given[0])).get("tensorflow_serving/apis/predict.proto");
    Descriptor asked = predict.findMessageTypeByName("PredictRequest");
    Descriptor answered = predict.findMessageTypeByName("PredictResponse");
    FieldDescriptor inputs = asked.findFieldByName("inputs");
    Descriptor tensor = inputs.getMessageType().findFieldByName("value").getMessageType();

    var request = DynamicMessage.newBuilder(asked);
    JsonFormat.parser().merge("{'modelSpec': {'name': '" + given[2] + "', 'signatureName': 'any_axes_int16'}, "
        + "'outputFilter': ['segmentation']}", request);
    ByteBuffer file = null;
    String axes = null;
    int[] n = new int[3];
    String[] names = {"flair", "t1", "t1ce", "t2"};
    for (int number = 0; number < 4; number++) {
      file = scan(given[3 + number]);
      if (axes != null && !axes.equals(axes(file)))
        throw new IOException(given[3 + number] + ": the four are not on one grid: axes " + axes(file) + ", " + axes);
      axes = axes(file);
      for (int axis = 0; axis < 3; axis++) n[axis] = file.getShort(42 + 2 * axis);
      int begin = (int) file.getFloat(108);
      ByteBuffer voxels = ByteBuffer.allocate(2 * n[0] * n[1] * n[2]).order(ByteOrder.LITTLE_ENDIAN);
      for (int i = 0; i < n[0]; i++)  // C order: k fastest; a file has i fastest
        for (int j = 0; j < n[1]; j++)
          for (int k = 0; k < n[2]; k++)
            voxels.putShort(file.getShort(begin + 2 * (i + n[0] * (j + n[1] * k))));
      var sent = DynamicMessage.newBuilder(tensor);
      JsonFormat.parser().merge("{'dtype': 'DT_INT16', 'tensorShape': {'dim': [{'size': " + n[0] + "}, {'size': "
          + n[1] + "}, {'size': " + n[2] + "}]}}", sent);
      sent.setField(tensor.findFieldByName("tensor_content"), ByteString.copyFrom(voxels.array()));
      request.addRepeatedField(inputs, entry(inputs.getMessageType(), names[number], sent.build()));
    }
    var told = DynamicMessage.newBuilder(tensor);
    JsonFormat.parser().merge("{'dtype': 'DT_STRING', 'tensorShape': {}}", told);
    told.addRepeatedField(tensor.findFieldByName("string_val"), ByteString.copyFromUtf8(axes));
    request.addRepeatedField(inputs, entry(inputs.getMessageType(), "axes", told.build()));

    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(given[1]).usePlaintext().maxInboundMessageSize(1 << 30).build();
    MethodDescriptor<DynamicMessage, DynamicMessage> method =
        MethodDescriptor.<DynamicMessage, DynamicMessage>newBuilder().setType(MethodDescriptor.MethodType.UNARY)
            .setFullMethodName("tensorflow.serving.PredictionService/Predict")
            .setRequestMarshaller(ProtoUtils.marshaller(DynamicMessage.getDefaultInstance(asked)))
            .setResponseMarshaller(ProtoUtils.marshaller(DynamicMessage.getDefaultInstance(answered))).build();
    DynamicMessage answer = ClientCalls.blockingUnaryCall(channel, method, CallOptions.DEFAULT, request.build());
    channel.shutdown();

    var output = (DynamicMessage) ((List<?>) answer.getField(answered.findFieldByName("outputs"))).get(0);
    var labels = (DynamicMessage) output.getField(output.getDescriptorForType().findFieldByName("value"));
    var bytes = (ByteString) labels.getField(tensor.findFieldByName("tensor_content"));
    // A server without --enable_serialization_as_tensor_content sends value by value.
    var values = (List<?>) labels.getField(tensor.findFieldByName("int_val"));
    file.putShort(70, (short) 2).putShort(72, (short) 8);  // the file's data type, uint8
    try (var written = new BufferedOutputStream(new FileOutputStream(given[7]))) {
      written.write(file.array(), 0, (int) file.getFloat(108));
      for (int k = 0; k < n[2]; k++)
        for (int j = 0; j < n[1]; j++)
          for (int i = 0; i < n[0]; i++) {
            int at = k + n[2] * (j + n[1] * i);
            written.write(bytes.isEmpty() ? (Integer) values.get(at) : bytes.byteAt(at));
          }
    }
  }
}
